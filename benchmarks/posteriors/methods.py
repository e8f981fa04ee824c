r"""The solvers that the benchmark compares, and the settings that each is tuned over."""

__all__ = ["METHODS", "Method", "Unguided", "alike"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inverse import (
    DPS,
    DSG,
    LGDMC,
    ConstantBudget,
    Cost,
    CPiGDM,
    PiGDM,
    Run,
    Sequential,
    StochasticLinearBudget,
    Trust,
)
from mdm import DDIM, Denoiser, Level, Transition


class Unguided(Sequential):
    r"""Creates the solver that does not look at the measurement."""

    def step(self, run: Run, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        return level.land(level.mean(run.denoiser(y_t, level.t.to(y_t)), y_t))

    def cost(self, denoiser: Denoiser) -> Cost:
        return Cost(len(self.levels(denoiser)), 0)


@dataclass(frozen=True)
class Method:
    r"""A solver and what is tuned.

    Arguments:
        build: From a transition to the solver.
        knob: The attribute that is tuned, if any.
        low: Its smallest value.
        high: Its largest value.
        second: The name and the values of a second thing that is tuned, for half as many values of
            the first: an attribute, or the `start` of the transition.
        projector: Whether it is one of pseudoinverse guidance, hence without noise.
        needs_noise: Whether it is defined for noisy measurements alone.
    """

    build: Callable[[Transition], Sequential]
    knob: str | None = None
    low: float = 0.0
    high: float = 0.0
    second: tuple[str, tuple[Any, Any]] | None = None
    projector: bool = False
    needs_noise: bool = False

    def settings(self, task: str, n: int) -> list[dict[str, Any]]:
        r"""Returns n settings on a grid that is uniform in the logarithm."""
        if self.knob is None:
            return [{}]
        # without a pseudo-inverse a chain cannot start below 1
        second = None if task == "disc" and self.projector else self.second
        name, values = second or ("", (None,))
        k = n // len(values)
        grid = [self.low * (self.high / self.low) ** (i / (k - 1)) for i in range(k)]
        return [{self.knob: a} | ({name: b} if name else {}) for b in values for a in grid]

    def solver(self, steps: int, setting: dict[str, Any]) -> Sequential:
        r"""Returns the solver with a setting."""
        transition = DDIM(steps, 0.0, setting.get("start", 1.0)) if self.projector else DDIM(steps)
        solver = self.build(transition)
        for name, value in setting.items():
            if name != "start":
                setattr(solver, name, value)
        return solver

    def steps(self, denoiser: Denoiser, calls: int) -> int:
        r"""Returns the largest number of steps that costs no more than so many calls. The estimate
        of a bound is left out, which is made once for all measurements."""

        def cost(steps: int) -> int:
            solver = self.solver(steps, {})
            once = 2 * steps if getattr(solver, "quantile", None) else 0
            return solver.cost(denoiser).calls - once

        if cost(calls) <= calls:
            return calls
        low, high = 1, calls
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cost(middle) <= calls else (low, middle)
        return low


def _dps(power: int) -> Callable[[Transition], Sequential]:
    return lambda t: DPS(whiten=False, power=power, transition=t)


START = ("start", (1.0, 0.6))
METHODS = {
    "unguided": Method(lambda t: Unguided(t)),
    "DPS": Method(_dps(1), "zeta", 3e-3, 3.0),
    "DPS squared": Method(_dps(2), "zeta", 1e-2, 10.0),
    "DSG": Method(lambda t: DSG(transition=t), "gamma", 3e-3, 1.0, ("interval", (1, 5))),
    "LGD-MC": Method(lambda t: LGDMC(10, transition=t), "step_size", 3e-3, 3.0),
    "Trust": Method(lambda t: Trust(ConstantBudget(4), transition=t), "step_size", 2e-3, 2.0),
    "Trust 0-8": Method(
        lambda t: Trust(StochasticLinearBudget(0, 8), transition=t), "step_size", 2e-3, 2.0
    ),
    "Trust bound": Method(
        lambda t: Trust(ConstantBudget(4), quantile=0.99, transition=t), "step_size", 2e-3, 2.0
    ),
    "PiGDM": Method(
        lambda t: PiGDM(weighting="bayes", transition=t), "weight", 0.2, 30.0, START, True
    ),
    "PiGDM integrated": Method(
        lambda t: PiGDM(weighting="bayes", integrate=True, transition=t),
        "weight",
        0.2,
        30.0,
        START,
        True,
        True,  # without noise the integral diverges at time 0
    ),
    "C-PiGDM": Method(lambda t: CPiGDM(transition=t), "weight", 2.0, 300.0, START, True),
}


def alike(settings: list[dict[str, Any]], best: int, knob: str) -> list[int]:
    r"""Returns which settings differ from one in a single attribute at most.

    Arguments:
        settings: The settings.
        best: The number of the one.
        knob: The attribute.
    """
    rest = {k: v for k, v in settings[best].items() if k != knob}
    return [i for i, s in enumerate(settings) if {k: v for k, v in s.items() if k != knob} == rest]
