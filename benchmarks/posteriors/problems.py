r"""Problems whose posterior is known, and how far samples are from it.

The priors have exact denoisers: a Gaussian with a coloured spectrum, and mixtures of Gaussians. A
linear measurement leaves a mixture again, in closed form; a disc that is forbidden, or rounding to
integers, leaves the samples of the prior that fall outside of the disc, or round to the same.
"""

__all__ = ["TASKS", "Outside", "Problem", "Remembered", "prior", "problem", "scores", "sliced_w2"]

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from constraints import Constraint, derive_seed, generator
from inverse import Operator, Quantise, RandomProjection, Residual
from mdm import Denoiser, GaussianDenoiser, MixtureDenoiser, Schedule, VPSchedule
from namm import MMD

# the std of the noise of a measurement
TASKS = {"noisy": 0.2, "exact": 0.0, "disc": 0.0, "quantised": 0.0}
COMPONENTS = {2: 4, 16: 3, 64: 2}
CENTRE = 0.5  # of the disc, along the first axis


class Remembered(Schedule):
    r"""Creates a schedule that remembers what another one returned, since the grids of a benchmark
    come back again and again.

    Arguments:
        schedule: The other schedule.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.known: dict[tuple[str, torch.dtype, torch.Size, bytes], tuple[Tensor, Tensor]] = {}

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._recall("values", t)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._recall("slopes", t)

    def _recall(self, what: str, t: Tensor) -> tuple[Tensor, Tensor]:
        one = t.ndim == 1 and t.stride() == (0,)  # a batch at one time
        key = (what, t.dtype, t.shape, (t[:1] if one else t).numpy().tobytes())
        if key not in self.known:
            self.known[key] = self.schedule.slopes(t) if what == "slopes" else self.schedule(t)
        return self.known[key]


class Outside(Constraint):
    r"""Creates the constraint that the first two entries of a field lie outside a disc, whose
    residual is the depth inside.

    Arguments:
        radius: The radius of the disc, whose centre is at (0.5, 0).
    """

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def residual(self, x: Tensor) -> Tensor:
        r"""Returns the depths `(B, 1)` of fields `(B, 1, n)`."""
        centre = x.new_tensor([CENTRE, 0.0])
        return (self.radius - (x[:, :, :2] - centre).square().sum(dim=2).sqrt()).relu()


@dataclass
class Problem:
    r"""A problem whose posterior is known.

    Arguments:
        name: Its name.
        task: One of `TASKS`.
        denoiser: The exact denoiser of the prior.
        operator: The operator, on fields `(B, 1, d)`.
        m: The measurement, with shape `(1, *M)`.
        reference: Samples of the posterior, with shape `(N, d)`.
        mean: The mean of the posterior, with shape `(d,)`.
        cov: The covariance of the posterior, with shape `(d, d)`.
    """

    name: str
    task: str
    denoiser: Denoiser
    operator: Operator
    m: Tensor
    reference: Tensor
    mean: Tensor
    cov: Tensor


@cache
def prior(kind: str, d: int) -> MixtureDenoiser:
    r"""Returns a prior: `gaussian`, of variances 1/k along random axes, 1 on average; or
    `mixture`, of components on a ring in the first two entries, with a third of wide and the rest
    of thin directions, which have variances of 0.3 and 0.02."""
    random = generator("prior", kind, d)
    schedule = Remembered(VPSchedule())

    def axes() -> Tensor:
        return torch.linalg.qr(torch.randn(d, d, generator=random))[0]

    if kind == "gaussian":
        variance, q = 1 / torch.arange(1, d + 1), axes()
        cov = q @ torch.diag(variance / variance.mean()) @ q.T
        return MixtureDenoiser(torch.ones(1), torch.zeros(1, d), cov[None], schedule)
    k = COMPONENTS[d]
    angle = 2 * math.pi * (torch.arange(k) + 0.15) / k
    means = torch.randn(k, d, generator=random) / 2
    means[:, :2] = 1.5 * torch.stack([angle.cos(), angle.sin()], dim=1)
    variance = torch.where(torch.arange(d) < math.ceil(d / 3), 0.3, 0.02)
    covs = torch.stack([q @ torch.diag(variance) @ q.T for q in (axes() for _ in range(k))])
    return MixtureDenoiser(torch.arange(1.0, k + 1), means, covs, schedule)


@cache
def problem(kind: str, d: int, task: str, draw: str, n: int) -> Problem:
    r"""Returns a problem of a prior and a task. The draw keys the truth, its noise, and the n
    reference samples."""
    law, std = prior(kind, d), TASKS[task]
    denoiser: Denoiser = law
    if kind == "gaussian":  # the same, cheaper
        denoiser = GaussianDenoiser(law.covs[0], schedule=law.schedule)

    def seeds(what: str, n: int) -> list[int]:
        return [derive_seed("posteriors", what, kind, d, task, draw, i) for i in range(n)]

    name = f"{kind}-{d}-{task}"
    if task == "disc":
        points = law.sample([derive_seed("radius", i) for i in range(4096)])
        centred = points[:, :2] - torch.tensor([CENTRE, 0.0])
        # half of the prior is feasible
        outside = Outside(float(torch.linalg.vector_norm(centred, dim=1).median()))
        y = law.sample(seeds("reference", 3 * n))
        y = y[outside(y[:, None]) == 0]
        assert len(y) >= n
        operator = Residual(outside, std=0.0)
        m = torch.zeros(1, 1)
        return Problem(name, task, denoiser, operator, m, y[:n], y.mean(0), y.T.cov())
    if task == "quantised":
        rounding, y = Quantise(1.0, std=0.0), torch.empty(0, d)
        m = rounding.measure(law.sample(seeds("truth", 1))[:, None], seeds("noise", 1))
        for part in range(100):
            drawn = law.sample(seeds(f"reference {part}", 2 * n))
            y = torch.cat([y, drawn[(rounding(drawn[:, None]) == m).all(dim=2)[:, 0]]])[:n]
            if len(y) == n:
                break
        return Problem(name, task, denoiser, rounding, m, y, y.mean(0), y.T.cov())
    linear = RandomProjection(max(1, d // 4), [d], std=std)
    m = linear.measure(law.sample(seeds("truth", 1))[:, None], seeds("noise", 1))
    matrix = linear(torch.eye(d)[:, None])[:, 0].T
    posterior = law.condition(matrix, m[0, 0], std)
    mean = posterior.weights @ posterior.means
    centred = posterior.means - mean
    spread = posterior.covs + centred[:, :, None] * centred[:, None, :]
    cov = torch.einsum("k,kij->ij", posterior.weights, spread)
    y = posterior.sample(seeds("reference", n))
    return Problem(name, task, denoiser, linear, m, y, mean, cov)


@cache
def _directions(d: int, n: int = 128) -> Tensor:
    v = torch.randn(d, n, generator=generator("directions", d))
    return v / torch.linalg.vector_norm(v, dim=0)


def sliced_w2(y: Tensor, reference: Tensor) -> float:
    r"""Returns the sliced 2-Wasserstein distance of two sets of points along 128 fixed directions,
    by the exact coupling of the sorted projections; infinite if a point is not finite.

    Arguments:
        y: The points, with shape `(N, d)`.
        reference: The other points, with shape `(k N, d)`, of which each of the first is coupled
            with k.
    """
    if not torch.isfinite(y).all():
        return math.inf
    v = _directions(y.shape[1])
    ours, theirs = (y @ v).sort(dim=0).values, (reference @ v).sort(dim=0).values
    ours = ours.repeat_interleave(len(theirs) // len(ours), dim=0)
    return float((ours - theirs).square().mean().sqrt())


def scores(p: Problem, y: Tensor) -> dict[str, float]:
    r"""Returns how far samples `(N, d)` are from a posterior, by the name of the metric."""
    residual = p.operator(y[:, None]) - p.m
    out = {"sw2": sliced_w2(y, p.reference)}
    if p.task == "disc":
        out["violation"] = float(residual.mean())
        out["percent_inside"] = 100 * float((residual > 1e-6).float().mean())
    else:
        out["violation"] = float(residual.square().mean().sqrt())
    if TASKS[p.task]:
        out["chi2"] = float(residual.square().mean()) / TASKS[p.task] ** 2
    out["mean_error"] = float(((y.mean(0) - p.mean).square().sum() / p.cov.trace()).sqrt())
    out["cov_error"] = float((y.T.cov() - p.cov).norm() / p.cov.norm())
    mmd = MMD()
    mmd.update(p.reference[: 2 * len(y)], real=True)
    mmd.update(y, real=False)
    out["mmd2"] = float(mmd.compute()["mean"])
    return out
