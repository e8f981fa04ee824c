r"""The solvers that the benchmark compares."""

__all__ = ["METHODS", "affordable", "alike"]

from functools import cache
from typing import Any

from inverse import (
    DPS,
    DSG,
    LGDMC,
    Bound,
    ConstantBudget,
    CPiGDM,
    PiGDM,
    StochasticLinearBudget,
    Trust,
)
from mdm import Denoiser

from ..common.solving import Method, Unguided

START = ("start", (1.0, 0.6))
METHODS = {
    "unguided": Method(lambda t: Unguided(t)),
    "DPS": Method(lambda t: DPS(whiten=False, power=1, transition=t), "zeta", 3e-3, 3.0),
    "DPS squared": Method(lambda t: DPS(whiten=False, power=2, transition=t), "zeta", 1e-2, 10.0),
    "DSG": Method(lambda t: DSG(transition=t), "gamma", 3e-3, 1.0, ("interval", (1, 5))),
    "LGD-MC": Method(lambda t: LGDMC(10, transition=t), "step_size", 3e-3, 3.0),
    "Trust": Method(lambda t: Trust(ConstantBudget(4), transition=t), "step_size", 2e-3, 2.0),
    "Trust 0-8": Method(
        lambda t: Trust(StochasticLinearBudget(0, 8), transition=t), "step_size", 2e-3, 2.0
    ),
    "Trust bound": Method(
        lambda t: Trust(ConstantBudget(4), bound=Bound(0.99), transition=t), "step_size", 2e-3, 2.0
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
    r"""Returns the numbers of the settings that differ from the best in the knob at most."""
    rest = {k: v for k, v in settings[best].items() if k != knob}
    return [i for i, s in enumerate(settings) if {k: v for k, v in s.items() if k != knob} == rest]


@cache
def affordable(name: str, denoiser: Denoiser, calls: int) -> int:
    r"""Returns the largest number of steps of a method that costs no more than so many calls. The
    estimate of a bound, which is made once for all measurements, costs nothing here."""

    def cost(steps: int) -> int:
        solver = METHODS[name].solver(steps, {})
        once = 2 * steps if isinstance(getattr(solver, "bound", None), Bound) else 0
        return solver.cost(denoiser).calls - once

    if cost(calls) <= calls:
        return calls
    low, high = 1, calls
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= calls else (low, middle)
    return low
