r"""The tasks of the spiral benchmark, the solvers that are compared, and what is varied of trust
sampling."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from constraints import Polynomial, Spiral
from inverse import (
    DPS,
    DSG,
    LGDMC,
    Bound,
    ConstantBudget,
    StochasticLinearBudget,
    Trust,
    TrustBudget,
    stochastic_round,
)
from mdm import Level, Schedule

from ..common.solving import Method, Unguided

NEAR = 0.05  # of both, in the plane: a sample that is as asked for
ABLATION = ("constraint", "distance", "score", "percent_hit", "inner", "accepted", "needed_calls")
METRICS = (
    "constraint",
    "distance",
    "score",
    "median_constraint",
    "median_distance",
    "percent_hit",
    "percent_lost",
    "sw2",
)


@dataclass(frozen=True)
class Task:
    r"""A constraint on points of the plane.

    Arguments:
        text: The constraint in words of mathematics.
        terms: The terms of its polynomial.
        inequality: Whether values below zero satisfy it too.
        published: The published mean of its absolute value and of the distance to the data curve,
            for each solver.
    """

    text: str
    terms: list[list[float]]
    inequality: bool
    published: dict[str, tuple[float, float]]

    def polynomial(self, raw: bool = False) -> Polynomial:
        r"""Returns the constraint, or with `raw` the equation at its border."""
        return Polynomial(self.terms, self.inequality and not raw)


TASKS = {
    "line": Task(
        "$2x + y = -1$",
        [[2, 1, 0], [1, 0, 1], [1, 0, 0]],
        False,
        {"DPS": (0.118, 0.036), "DSG": (0.048, 0.022), "Trust": (0.045, 0.0086)},
    ),
    "cubic": Task(
        "$y = x^3 - x$",
        [[1, 0, 1], [-1, 3, 0], [1, 1, 0]],
        False,
        {"DPS": (0.108, 0.134), "DSG": (0.040, 0.117), "Trust": (0.162, 0.019)},
    ),
    "curve": Task(
        "$x^2 + y^3 = 3$",
        [[1, 2, 0], [1, 0, 3], [-3, 0, 0]],
        False,
        {"DPS": (0.233, 0.131), "DSG": (0.108, 0.143), "Trust": (0.140, 0.017)},
    ),
    "disc": Task(
        r"$(x - \frac{1}{2})^2 + y^2 \leq \frac{5}{4}$",
        [[1, 2, 0], [-1, 1, 0], [1, 0, 2], [-1, 0, 0]],
        True,
        {"DPS": (0.0, 0.016), "DSG": (0.0, 0.015), "Trust": (0.0, 0.012)},
    ),
}


def slope(task: Task, spiral: Spiral) -> float:
    r"""Returns the mean length of the gradient of a constraint where its border crosses a
    spiral, which turns its values into lengths there."""
    x = spiral.curve(torch.linspace(0, 1, 20_001, dtype=torch.float64))[:, :, None, None]
    value = task.polynomial(raw=True).residual(x.requires_grad_()).flatten()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    crossed = value[1:] * value[:-1] < 0
    return float(gradient.flatten(1).norm(dim=1)[1:][crossed].mean())


INNER = 4  # the gradient steps of Trust at each level but the last
METHODS = {
    "unguided": Method(lambda t: Unguided(t)),
    "DPS": Method(lambda t: DPS(transition=t), "zeta", 0.008, 1.0),
    "DSG": Method(lambda t: DSG(transition=t), "gamma", 0.05, 0.9),
    "LGD-MC(10)": Method(lambda t: LGDMC(10, transition=t), "step_size", 0.008, 1.0),
    "Trust": Method(lambda t: Trust(ConstantBudget(INNER), transition=t), "step_size", 0.015, 1.0),
}


class Inverted(TrustBudget):
    r"""Creates the budget of the published code: a `StochasticLinearBudget` that is rounded up
    with the probability of going down.

    Arguments:
        start: The number at the noisiest level of the line that is meant.
        end: The number at the cleanest.
        seed: The seed of the draws.
    """

    def __init__(self, start: float = 0.0, end: float = 8.0, seed: int = 0) -> None:
        self.start, self.end, self.seed = start, end, seed

    def steps(self, levels: Sequence[Level], schedule: Schedule) -> list[int]:
        del schedule
        line = line_of(self.start, self.end, levels)
        # the same draw: what would go up goes down, and the reverse
        turned = [2 * math.floor(v) + 1 - stochastic_round(v, self.seed, k) for k, v in line]
        return [*turned, 0]


def line_of(start: float, end: float, levels: Sequence[Level]) -> list[tuple[int, float]]:
    r"""Returns the number of each level but the last, and the budget that is meant there."""
    places = [(1000 * float(level.t) - 1) / 999 for level in levels[:-1]]
    return [(k, end + (start - end) * min(max(p, 0.0), 1.0)) for k, p in enumerate(places)]


def bounds() -> dict[str, tuple[dict[str, float], float | Bound | None]]:
    r"""Returns the bounds of the ablation, by name: as the results write them, and as arguments of
    `Trust`."""
    out: dict[str, tuple[dict[str, float], float | Bound | None]] = {"none": ({}, None)}
    for a in (math.sqrt(2), 2 * math.sqrt(2)):
        out[f"fixed {a:.2f}"] = {"bound": a}, a
    for q in (0.25, 0.5, 0.9, 0.99):
        out[f"quantile {q}"] = {"quantile": q}, Bound(q)
    return out


def budgets() -> dict[str, tuple[tuple[float, float], Callable[[int], TrustBudget]]]:
    r"""Returns the budgets of the ablation, by name: the ends of the line that is meant, and the
    budget by seed."""
    out: dict[str, tuple[tuple[float, float], Callable[[int], TrustBudget]]] = {
        "constant 4": ((4, 4), lambda seed: ConstantBudget(4))
    }
    for a, b in ((0, 8), (2, 6)):
        out[f"{a} to {b}, right"] = ((a, b), partial(StochasticLinearBudget, a, b))
        out[f"{a} to {b}, inverted"] = ((a, b), partial(Inverted, a, b))
    return out


def expected(name: str, levels: Sequence[Level]) -> dict[str, float]:
    r"""Returns what a budget expects in closed form: the mean number of steps of a level, how far
    the steps of a level are from the line (RMS), and the number of levels without any."""
    meant, _ = budgets()[name]
    line = [v for _, v in line_of(*meant, levels)]
    up = [v - math.floor(v) for v in line]
    if name.endswith("inverted"):
        up = [1 - p for p in up]
    means = [math.floor(v) + p for v, p in zip(line, up, strict=True)]
    return {
        "mean": statistics.mean(means),
        "off": math.sqrt(statistics.mean((a - v) ** 2 for a, v in zip(means, line, strict=True))),
        "without": sum(1 - p for v, p in zip(line, up, strict=True) if v < 1),
    }
