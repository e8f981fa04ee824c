r"""The reference posterior of Burgers fields: its prior, its samples, and how well it
holds fields.

The first frame u is unknown, and all that follow are :math:`u_{k + 1} = S(u_k)` by the step of the
constraint. White numbers z give :math:`u = \mu + L z`, with the moments of training first frames.
"""

__all__ = ["Assimilation", "Gaussian", "Plan", "calibrate", "reference", "shape_of_prior"]

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constraints import Burgers, InputError, derive_seed, generator
from datamodules import BurgersData
from inverse import Select
from namm.training.checkpoint import build_part

from ..common.numbers import Row, interval, tidy
from .laplace import Target, effective_size, gauss_newton, importance, sample, split_rhat
from .scores import central, ranks


@dataclass(frozen=True)
class Plan:
    r"""The sizes of a benchmark.

    Arguments:
        fields: The number of test fields, the first ones.
        samples: The number of samples of a solver for each.
        training: The number of training fields that the prior is fitted to.
        chains: The number of chains for each field.
        warmup: The number of their draws that are forgotten.
        draws: The number of their draws that are kept.
        reference: The number of draws that solvers are held against.
        weighted: The number of weighted draws.
        calibrated: The number of fields of each kind that the reference is tested on.
        seed: The seed. The measurements have the seed of `inverse.Inverse`.
    """

    fields: int = 8
    samples: int = 32
    training: int = 10000
    chains: int = 16
    warmup: int = 150
    draws: int = 256
    reference: int = 2048
    weighted: int = 4096
    calibrated: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Gaussian:
    r"""A Gaussian of first frames.

    Arguments:
        mean: The mean, with shape `(X,)`.
        factor: A factor of the covariance, with shape `(X, X)`, of principal axes.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, frames: Tensor) -> "Gaussian":
        r"""Returns the Gaussian of the mean and the covariance of frames `(N, X)`."""
        variance, axes = torch.linalg.eigh(frames.T.cov())
        return cls(frames.mean(dim=0), axes * variance.clamp(min=0).sqrt())

    def __call__(self, z: Tensor) -> Tensor:
        r"""Returns the frames `(X, B)` of white numbers `(X, B)`."""
        return self.mean[:, None] + self.factor @ z


class Assimilation:
    r"""Creates the problem of a configuration: its fields, its measurement, and its prior.

    Arguments:
        config: The configuration of `namm test`.
        plan: The sizes.

    Raises:
        InputError: If the measurement is not of the first frames.
    """

    def __init__(self, config: dict[str, Any], plan: Plan) -> None:
        data = config["data"]["init_args"]
        constraint = build_part(data["constraint"])
        if not isinstance(constraint, Burgers):
            raise InputError(
                "The reference posterior is one of the Burgers equation, got the constraint "
                f"{type(constraint).__name__}: give a problem of constraints.Burgers."
            )
        self.step: Callable[[Tensor], Tensor] = constraint.step
        self.points, self.frames = data["points"], data["frames"]
        self.operator = build_part(config["model"]["init_args"]["operator"])
        index = self.operator.index if isinstance(self.operator, Select) else torch.tensor([-1])
        if not torch.equal(index, torch.arange(len(index))) or self.operator.dim != -1:
            raise InputError(
                "The reference posterior expects a measurement of the first frames, got "
                f"{self.operator}: use inverse.Select with dim -1 and a number as index."
            )
        self.observed, self.std = len(index), float(self.operator.std)
        seed = data.get("seed", 0)
        kwargs: dict[str, Any] = {"file": "", "sizes": {}, "points": self.points}
        starts = BurgersData(constraint, frames=2, **kwargs)
        self.training = torch.cat(
            [
                starts.simulate(min(500, plan.training - i), seed, i, torch.float64)[:, 0, :, 0]
                for i in range(0, plan.training, 500)
            ]
        )
        whole = BurgersData(constraint, frames=self.frames, **kwargs)
        n = max(plan.fields, plan.calibrated)
        self.truth = whole.simulate(n, seed, whole.starts["test"])
        self.prior = Gaussian.fit(self.training)

    def measure(self, x: Tensor, seed: int = 0) -> Tensor:
        r"""Returns the measurements of fields, those that `inverse.Inverse` makes."""
        return self.operator.measure(x, [derive_seed(seed, "field", i) for i in range(len(x))])

    def target(self, m: Tensor) -> Target:
        r"""Returns the potentials of measurements `(P, 1, X, K)`."""
        columns = m.double().permute(3, 2, 0, 1).flatten(0, 1)[:, :, 0]
        return Target(self.forward, columns, self.std, self.points)

    def forward(self, z: Tensor) -> Tensor:
        r"""Returns the frames seen, one after the other, of white numbers `(X, B)`."""
        return torch.cat(list(self._roll(z, self.observed)))

    def rollout(self, z: Tensor) -> Tensor:
        r"""Returns the fields `(B, 1, X, T)` of white numbers `(X, B)`, in float32."""
        frames = [u.T.float() for u in self._roll(z, self.frames)]
        return torch.stack(frames, dim=-1)[:, None]

    def draw(self, n: int, *key: int | str) -> Tensor:
        r"""Returns n fields of the prior, without those on which the solver blows up: the
        explicit scheme is not stable for all that a Gaussian allows."""
        shape = (self.points, 2 * n + 50)
        x = self.rollout(torch.randn(shape, generator=generator(*key), dtype=torch.float64))
        return x[torch.isfinite(x).flatten(1).all(dim=1)][:n]

    def _roll(self, z: Tensor, frames: int) -> Iterator[Tensor]:
        u = self.prior(z)
        for k in range(frames):
            u = self.step(u) if k else u
            yield u


def reference(task: Assimilation, plan: Plan) -> tuple[Tensor, Tensor, list[Row]]:
    r"""Returns the states of the chains, `(X, P, N)`, as many drawn by importance as solvers have
    samples, `(X, P, n)`, and what is known of the chains of each field."""
    target = task.target(task.measure(task.truth[: plan.fields]))
    laplace = gauss_newton(target)
    chains = sample(target, laplace, plan.chains, plan.warmup, plan.draws, plan.seed)
    z, weights = importance(target, laplace, plan.weighted, plan.seed)
    states = chains.z.permute(0, 3, 1, 2)
    watched = torch.cat([states, states.square().sum(dim=2, keepdim=True)], dim=2)
    rhat, ess = split_rhat(watched), effective_size(watched)
    facts = []
    for i in range(plan.fields):
        u, v = task.prior(chains.z[:, :, i].transpose(0, 1).flatten(1)), task.prior(z[:, i])
        apart = (u.mean(dim=1) - v @ weights[i]).square().sum() / u.var(dim=1).sum()
        row = {"slope": laplace.slope[i], "acceptance": chains.acceptance[i]}
        row |= {"step": chains.step[i], "rhat": rhat[:, i].max(), "ess": ess[:, i].min()}
        row |= {"importance": 1 / weights[i].square().sum() / plan.weighted, "apart": apart.sqrt()}
        facts.append({k: tidy(float(v)) for k, v in row.items()})
    every = plan.chains * plan.draws // plan.reference
    kept = chains.z[::every].permute(1, 2, 0, 3).flatten(2)
    return kept, resample(z, weights, plan.samples, plan.seed), facts


def resample(z: Tensor, weights: Tensor, n: int, seed: int) -> Tensor:
    r"""Returns n of the states `(k, P, N)` of each problem, drawn by their weights `(P, N)`."""
    random = generator("resample", seed)
    drawn = torch.multinomial(weights, n, replacement=True, generator=random)
    return z.gather(2, drawn.expand(len(z), -1, -1))


def calibrate(
    task: Assimilation, truth: Tensor, plan: Plan, name: str
) -> tuple[list[Row], list[float]]:
    r"""Returns how well the reference holds fields `(P, 1, X, T)`, for some frames, and how often
    the ranks of their pixels fall into each of ten parts, where 1 is expected."""
    target = task.target(task.measure(truth, derive_seed(plan.seed, name)))
    z, weights = importance(target, gauss_newton(target, steps=10), 512, plan.seed)
    z = resample(z, weights, 256, plan.seed)
    covered, square, rank = [], [], []
    for i, x in enumerate(truth[:, 0]):
        y = task.rollout(z[:, i])[:, 0]
        lower, upper = central(y)
        covered.append(((lower <= x) & (x <= upper)).float().mean(dim=0))
        square.append(((x - y.mean(dim=0)).square() / y.var(dim=0)).mean(dim=0))
        rank.append(ranks(y, x).flatten())
    frames = sorted({1, task.observed, task.frames // 4, task.frames // 2, task.frames})
    rows = [
        {"truths": name, "frame": k}
        | {"coverage": interval([float(a[k - 1]) for a in covered])}
        | {"square": interval([float(a[k - 1]) for a in square])}
        for k in frames
    ]
    counts = torch.histc(torch.cat(rank), 10, 0, 1)
    return rows, [tidy(float(c)) for c in counts / counts.mean()]


def shape_of_prior(task: Assimilation) -> Row:
    r"""Returns how far the first frames of training fields are from Gaussian."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        x = (x - x.mean(dim=0)) / x.std(dim=0)
        return x.pow(3).mean(dim=0), x.pow(4).mean(dim=0) - 3

    axes = task.prior.factor[:, -10:]
    skew, excess = moments(task.training)
    axis_skew, axis_excess = moments((task.training - task.prior.mean) @ axes)
    random = generator("prior", 0)
    z = torch.randn(task.points, 1000, generator=random, dtype=torch.float64)
    u = task.prior(z)
    stable = torch.isfinite(task.rollout(z)).flatten(1).all(dim=1)
    return {
        "skewness": [tidy(float(skew.min())), tidy(float(skew.max()))],
        "kurtosis": [tidy(float(excess.min())), tidy(float(excess.max()))],
        "axis_skewness": tidy(float(axis_skew.abs().max())),
        "axis_kurtosis": [tidy(float(axis_excess.min())), tidy(float(axis_excess.max()))],
        "outside": tidy(float(((u < 0) | (u > 1)).double().mean())),
        "unstable": tidy(1 - float(stable.double().mean())),
    }
