r"""Budgets of trust sampling: how many gradient steps each level is worth."""

__all__ = [
    "ConstantBudget",
    "InverseBetaBudget",
    "LinearBudget",
    "StochasticLinearBudget",
    "TrustBudget",
    "stochastic_round",
]

import abc
import math
from collections.abc import Sequence

import torch

from constraints import (
    InputError,
    Natural,
    NonNegativeFloat,
    PositiveInt,
    Ranged,
    Seed,
    generator,
)
from mdm import FlowSchedule, Level, Schedule


class TrustBudget(Ranged, abc.ABC):
    r"""Base of the budgets of `Trust`."""

    @abc.abstractmethod
    def steps(self, levels: Sequence[Level], schedule: Schedule) -> list[int]:
        r"""Returns the number of gradient steps at each level; none at the last, which ends on the
        denoised field.

        Arguments:
            levels: The levels of the chain.
            schedule: The schedule of the denoiser.
        """


class ConstantBudget(TrustBudget):
    r"""Creates the budget of the same number of steps at each level.

    Arguments:
        inner: The number of steps.
    """

    def __init__(self, inner: Natural = 4) -> None:
        self.inner = inner

    def steps(self, levels: Sequence[Level], schedule: Schedule) -> list[int]:
        del schedule
        return [self.inner] * (len(levels) - 1) + [0]


class LinearBudget(TrustBudget):
    r"""Creates the budget that goes linearly from its start, where the noise is, to its end:
    rounded from a line that is half a step wider at both ends, as published.

    Arguments:
        start: The number of steps at the noisiest level.
        end: The number of steps at the cleanest.
    """

    def __init__(self, start: Natural = 1, end: Natural = 8) -> None:
        self.start, self.end = start, end

    def steps(self, levels: Sequence[Level], schedule: Schedule) -> list[int]:
        del schedule
        wider = math.copysign(0.5, self.end - self.start)
        line = _line(self.start - wider, self.end + wider, levels)
        least, most = sorted((self.start, self.end))
        return [min(max(round(v), least), most) for v in line] + [0]


class StochasticLinearBudget(TrustBudget):
    r"""Creates the budget that is linear on average: each level rounds its value up with the
    probability of its fractional part, one draw for all samples. The published code rounds up with
    the probability of the rest, which turns the line into a falling saw-tooth.

    Arguments:
        start: The mean number of steps at the noisiest level.
        end: The mean number at the cleanest.
        seed: The seed of the draws.
    """

    def __init__(
        self, start: NonNegativeFloat = 0.0, end: NonNegativeFloat = 8.0, seed: Seed = 0
    ) -> None:
        self.start, self.end, self.seed = start, end, seed

    def steps(self, levels: Sequence[Level], schedule: Schedule) -> list[int]:
        del schedule
        line = _line(self.start, self.end, levels)
        return [stochastic_round(v, self.seed, k) for k, v in enumerate(line)] + [0]


class InverseBetaBudget(TrustBudget):
    r"""Creates the budget that is inverse to the rate :math:`\beta(t)` of the schedule, and whose
    calls are as many as given on average.

    Arguments:
        calls: The number of calls of the denoiser, the calls of the chain included.
        seed: The seed of the draws.
    """

    def __init__(self, calls: PositiveInt = 1000, seed: Seed = 0) -> None:
        self.calls, self.seed = calls, seed

    def steps(self, levels: Sequence[Level], schedule: Schedule) -> list[int]:
        if isinstance(schedule, FlowSchedule):
            raise InputError("A FlowSchedule has no finite rate: use StochasticLinearBudget.")
        if self.calls < len(levels):
            raise InputError(
                f"InverseBetaBudget expects at least the {len(levels)} calls of the chain, got "
                f"{self.calls}: give more calls, or fewer steps."
            )
        times = torch.stack([level.t for level in levels[:-1]])
        inverse = -schedule(times)[0] / schedule.slopes(times)[0]
        line = (self.calls - len(levels)) * inverse / inverse.sum()
        return [stochastic_round(v, self.seed, k) for k, v in enumerate(line.tolist())] + [0]


def stochastic_round(value: float, *key: int | str) -> int:
    r"""Returns the integer below a number or the one above it, whose mean is the number.

    Arguments:
        value: The number, at least 0.
        key: The key of the draw.
    """
    draw = torch.rand((), generator=generator("round", *key), dtype=torch.float64)
    floor = math.floor(value)
    return floor + int(float(draw) < value - floor)


def _line(start: float, end: float, levels: Sequence[Level]) -> list[float]:
    # the published line runs over the 1000 indices i = 1000 t - 1
    places = [(1000 * float(level.t) - 1) / 999 for level in levels[:-1]]
    return [end + (start - end) * min(max(place, 0.0), 1.0) for place in places]
