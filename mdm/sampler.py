r"""Samplers: fields drawn from a diffusion prior without any measurement."""

__all__ = ["ChainSampler", "DPMSolver", "Level", "Result", "Sampler", "chain", "descend"]

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, distributed

from constraints import Given, InputError, OpenShare, Range, Ranged, noise, progress, take

from .denoiser import Denoiser
from .schedule import Schedule
from .transition import DDIM, Step, Transition


@dataclass
class Result:
    r"""The fields that a sampler or a solver returns.

    Arguments:
        y: The clean fields, with shape `(B, C, *S)`.
        noisy: The same fields with the noise of the last step; `y` itself where the last
            transition adds none.
        report: Facts of the run by name: scalars, or lists with one entry per level.
    """

    y: Tensor
    noisy: Tensor
    report: dict[str, Any] = field(default_factory=dict)


class Level(NamedTuple):
    r"""One step down a chain, from time t to time s < t.

    Arguments:
        k: The number of the step.
        t: The time now, with shape `()`, float64.
        s: The next time, with shape `()`, float64.
        step: The coefficients of the transition.
        alpha_t: The signal scale now.
        sigma_t: The noise std now.
        alpha_s: The signal scale at the next time.
        sigma_s: The noise std at the next time.
        seeds: One seed per sample.
    """

    k: int
    t: Tensor
    s: Tensor
    step: Step
    alpha_t: float
    sigma_t: float
    alpha_s: float
    sigma_s: float
    seeds: Sequence[int]

    def noise(self, like: Tensor, *name: int | str) -> Tensor:
        r"""Draws standard normal fields of the shape `(B, C, *S)` of a tensor; with a name, other
        ones than the step itself draws."""
        return noise([(seed, self.k, *name) for seed in self.seeds], like.shape[1:], like)

    def mean(self, y_hat: Tensor, y_t: Tensor) -> Tensor:
        r"""Returns the mean of :math:`y_s` without guidance."""
        return self.step.c1 * y_hat + self.step.c2 * y_t

    def land(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`y_s`, with the noise of the step, and its mean."""
        if self.step.std == 0:
            return mean, mean
        return mean + self.step.std * self.noise(mean), mean


def chain(
    transition: Transition,
    denoiser: Denoiser,
    shape: Sequence[int],
    seeds: Sequence[int],
    advance: Callable[[Tensor, Level], tuple[Tensor, Tensor]],
    origin: Tensor | None = None,
) -> Result:
    r"""Runs a chain of transitions from noise to fields: the one loop of all samplers and guided
    solvers that go down the levels.

    Arguments:
        transition: The grid and the coefficients.
        denoiser: The prior, whose schedule and device are used.
        shape: The shape `(C, *S)` of one field.
        seeds: One seed per sample; a sample depends on its own seed alone.
        advance: From `y_t`, with shape `(B, C, *S)`, and the level to `y_s` and its mean.
        origin: A guess of the fields, with shape `(B, C, *S)`, which noise is added to at the
            first time; 0 if missing.
    """
    template = denoiser.template
    y = mean = noise([(seed, "start") for seed in seeds], shape, template)
    levels = list(descend(transition, denoiser.schedule, seeds))
    with progress(len(levels), f"Drawing a batch of {len(seeds)}", "steps") as bar:
        for level in levels:
            if level.k == 0:
                y = mean = level.sigma_t * y
                if origin is not None:
                    y = mean = y + level.alpha_t * origin
            y, mean = advance(y, level)
            bar.update()
    return Result(mean, y)


def descend(transition: Transition, schedule: Schedule, seeds: Sequence[int]) -> Iterator[Level]:
    r"""Yields the levels of a chain, from the first time to 0."""
    times = transition.times(schedule)
    alphas, sigmas = (a.tolist() for a in schedule(times))
    for k, (t, s) in enumerate(pairwise(times)):
        step = transition.step(schedule, t, s)
        scales = (alphas[k], sigmas[k], alphas[k + 1], sigmas[k + 1])
        yield Level(k, t, s, step, *scales, seeds)


def gather_given(parts: Sequence[Given]) -> Given | None:
    r"""Returns the data of the fields of all processes, in the order of the fields, or nothing
    where fields have no data. Process k of n holds every n-th field from the k-th on.

    Arguments:
        parts: The data of the fields of this process, batch by batch.
    """
    shares = [[{name: value.cpu() for name, value in part.items()} for part in parts]]
    if distributed.is_available() and distributed.is_initialized():
        shares = shares * distributed.get_world_size()
        distributed.all_gather_object(shares, shares[0])
    batches = [part for share in shares for part in share]
    if not batches:
        return None
    sizes = [sum(len(next(iter(part.values()))) for part in share) for share in shares]
    places = [torch.arange(k, sum(sizes), len(sizes))[:n] for k, n in enumerate(sizes)]
    order = torch.cat(places).argsort()
    return {name: torch.cat([part[name] for part in batches])[order] for name in batches[0]}


def given_rows(given: Given | None, samples: Sequence[int], like: Tensor) -> Given | None:
    r"""Returns the data of samples, or nothing where fields have no data: sample i takes the data
    of field i, and the samples after the last field begin again at the first field.

    Arguments:
        given: The data of the fields of all processes.
        samples: The positions of the samples.
        like: A tensor of the device of the result.
    """
    if not given:
        return None
    size = len(next(iter(given.values())))
    rows = take(given, torch.tensor(samples) % size)
    return rows and {name: value.to(like.device) for name, value in rows.items()}


class Sampler(Ranged, abc.ABC):
    r"""Base of all samplers."""

    @abc.abstractmethod
    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        r"""Draws fields.

        Arguments:
            denoiser: The prior.
            shape: The shape `(C, *S)` of one field.
            seeds: One seed per sample.
        """


class ChainSampler(Sampler):
    r"""Creates the sampler that goes down a chain of Gaussian transitions.

    Arguments:
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.

    Raises:
        ValueError: If the transition does not start from noise alone.
    """

    def __init__(self, transition: Transition | None = None) -> None:
        self.transition = transition or DDIM()
        if self.transition.start < 1:
            raise InputError(f"ChainSampler needs a start of 1, got {self.transition.start:g}.")

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        def advance(y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
            return level.land(level.mean(denoiser(y_t, level.t.to(y_t)), y_t))

        return chain(self.transition, denoiser, shape, seeds, advance)


class DPMSolver(Sampler):
    r"""Creates the second-order multistep solver DPM-Solver++(2M) of the probability flow, on a
    grid uniform in the log signal-to-noise ratio; it ends on a denoised field after few calls.

    References:
        DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models
        (Lu et al., 2022)
        https://arxiv.org/abs/2211.01095

    Arguments:
        steps: The number of calls of the denoiser, at least 2.
        end: The last time at which it is called, above 0.
    """

    def __init__(
        self,
        steps: Annotated[int, Range("[2, inf)")] = 20,
        end: OpenShare = 1e-3,
    ) -> None:
        self.steps, self.end = steps, end

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        template = denoiser.template
        times = denoiser.schedule.log_uniform(1.0, self.end, self.steps)
        alpha, sigma = denoiser.schedule(times)
        ratio = alpha.log() - sigma.log()
        y = float(sigma[0]) * noise([(seed, "start") for seed in seeds], shape, template)
        y_hat = denoiser(y, times[0].to(y))
        direction = y_hat
        with progress(self.steps, f"Drawing a batch of {len(seeds)}", "steps") as bar:
            bar.update()
            for k in range(1, self.steps):
                h = float(ratio[k] - ratio[k - 1])
                shrink = float(sigma[k] / sigma[k - 1])
                gain = float(alpha[k]) * -torch.expm1(torch.tensor(-h)).item()
                y = shrink * y + gain * direction
                before, y_hat = y_hat, denoiser(y, times[k].to(y))
                # extrapolates the denoised field to the middle of the next interval
                ahead = float(ratio[k + 1] - ratio[k]) if k + 1 < self.steps else 0.0
                direction = y_hat + ahead / (2 * h) * (y_hat - before)
                bar.update()
        return Result(y_hat, y_hat)
