r"""Samplers: fields drawn from a diffusion prior without any measurement."""

__all__ = ["ChainSampler", "DPMSolver", "Result", "Sampler", "chain"]

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from constraints import noise

from .denoiser import Denoiser
from .schedule import Schedule
from .transition import DDIM, Step, Transition


@dataclass
class Result:
    r"""What a sampler or solver returns.

    Arguments:
        y: The fields, with the noise of the last step where its transition has one,
            `(B, C, *S)`.
        mean: The same without the noise of the last step.
        report: Facts of the run by name: scalars, or lists with one entry per level.
    """

    y: Tensor
    mean: Tensor
    report: dict[str, Any] = field(default_factory=dict)


def chain(
    transition: Transition,
    denoiser: Denoiser,
    shape: Sequence[int],
    seeds: Sequence[int],
    mean: Callable[[Tensor, Tensor, Step], Tensor],
) -> Result:
    r"""Runs a chain of transitions from noise to fields: the one loop of all samplers and guided
    solvers that go down the levels.

    Arguments:
        transition: The grid and the coefficients.
        denoiser: The prior, whose schedule and device are used.
        shape: The shape `(C, *S)` of one field.
        seeds: One seed per sample; a sample depends on its own seed alone.
        mean: From `y_t`, with shape `(B, C, *S)`, the time and the coefficients of the step to the
            mean of `y_s`.
    """
    like = denoiser.like
    times = transition.times()
    _, sigma = denoiser.schedule(times[0])
    y = float(sigma) * noise([(seed, "start") for seed in seeds], shape, like)
    mu = y
    for k, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        step = transition.step(denoiser.schedule, t, s)
        mu = y = mean(y, t.to(y), step)
        if step.std > 0:
            y = mu + step.std * noise([(seed, k) for seed in seeds], shape, like)
    return Result(y, mu)


class Sampler(abc.ABC):
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
    """

    def __init__(self, transition: Transition | None = None) -> None:
        self.transition = transition or DDIM()

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        def mean(y_t: Tensor, t: Tensor, step: Step) -> Tensor:
            return step.c1 * denoiser(y_t, t) + step.c2 * y_t

        return chain(self.transition, denoiser, shape, seeds, mean)


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

    def __init__(self, steps: int = 20, end: float = 1e-3) -> None:
        if steps < 2 or not 0 < end < 1:
            raise ValueError(
                f"DPMSolver expects at least 2 steps and an end in (0, 1), got {steps} and {end}."
            )
        self.steps, self.end = steps, end

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        like = denoiser.like
        times = self.times(denoiser.schedule)
        alpha, sigma = denoiser.schedule(times)
        ratio = alpha.log() - sigma.log()
        y = float(sigma[0]) * noise([(seed, "start") for seed in seeds], shape, like)
        y_hat = denoiser(y, times[0].to(y))
        direction = y_hat
        for k in range(1, self.steps):
            h = float(ratio[k] - ratio[k - 1])
            shrink = float(sigma[k] / sigma[k - 1])
            gain = float(alpha[k]) * -torch.expm1(torch.tensor(-h)).item()
            y = shrink * y + gain * direction
            before, y_hat = y_hat, denoiser(y, times[k].to(y))
            # extrapolates the denoised field to the middle of the next interval
            ahead = float(ratio[k + 1] - ratio[k]) if k + 1 < self.steps else 0.0
            direction = y_hat + ahead / (2 * h) * (y_hat - before)
        return Result(y_hat, y_hat)

    def times(self, schedule: Schedule) -> Tensor:
        r"""Returns the times of the calls, from 1 to `end`, float64."""
        alpha, sigma = schedule(torch.tensor([1.0, self.end], dtype=torch.float64))
        # a flow has no signal at all at time 1
        first, last = (alpha.clamp(min=1e-6).log() - sigma.log()).tolist()
        grid = torch.linspace(first, last, self.steps, dtype=torch.float64)
        return schedule.invert(grid, self.end)
