"""Budgets of a trust region: their sums, their means and their refusals."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from constraints import InputError
from inverse import (
    ConstantBudget,
    InverseBetaBudget,
    LinearBudget,
    StochasticLinearBudget,
    Trust,
    TrustBudget,
    stochastic_round,
)
from mdm import DDIM, CosineSchedule, FlowSchedule, VPSchedule, descend
from tests.inverse.grids import SEEDS, SHAPE, mixture, projection


# budgets
@pytest.mark.parametrize("value", [2.9, 0.1, 0.0, 1.0, 8.0, 3.5])
def test_rounding_keeps_the_mean(value: float) -> None:
    draws = [stochastic_round(value, 7, i) for i in range(4000)]
    part = value - math.floor(value)

    assert set(draws) <= {math.floor(value), math.ceil(value)}
    # five standard errors; a whole number is itself
    assert abs(np.mean(draws) - value) <= 5 * math.sqrt(part * (1 - part) / 4000)
    assert draws == [stochastic_round(value, 7, i) for i in range(4000)]


LEVELS = list(descend(DDIM(200), VPSchedule(), ()))


def budget(b: TrustBudget) -> list[int]:
    inner = b.steps(LEVELS, VPSchedule())
    assert len(inner) == 200 and inner[-1] == 0 and min(inner) >= 0
    return inner


def test_budgets_have_their_sums() -> None:
    assert sum(budget(LinearBudget(1, 8))) == 892
    assert sum(budget(LinearBudget(1, 4))) == 496
    assert sum(budget(ConstantBudget())) == 796
    assert sum(budget(ConstantBudget(2))) == 398
    # a sum of 199 draws of variance up to 1/4 has a std of 7
    for seed in range(3):
        assert abs(sum(budget(StochasticLinearBudget(0, 8, seed))) - 796) < 30
        assert abs(sum(budget(StochasticLinearBudget(2, 6, seed))) - 796) < 30
        assert abs(sum(budget(InverseBetaBudget(1000, seed))) - 800) < 30
        assert abs(sum(budget(InverseBetaBudget(400, seed))) - 200) < 30
    assert budget(StochasticLinearBudget(seed=1)) != budget(StochasticLinearBudget(seed=2))


@pytest.mark.parametrize(("a", "b"), [(1, 8), (1, 4), (8, 1)])
def test_linear_budget_is_the_published_line(a: int, b: int) -> None:
    line = np.linspace(b + 0.5, a - 0.5, 1000) if b > a else np.linspace(b - 0.5, a + 0.5, 1000)
    indices = np.linspace(-1, 999, 201).astype(int)[::-1]
    assert indices[0] == 999 and indices[-2:].tolist() == [4, -1]
    expected = np.clip(np.round(line), min(a, b), max(a, b))[indices[:-2]]
    assert budget(LinearBudget(a, b)) == [*expected.astype(int).tolist(), 0]


def test_random_budgets_have_their_means() -> None:
    index = np.linspace(-1, 999, 201).astype(int)[::-1][:-2]
    beta = 0.1 + 19.9 * (index + 1) / 1000
    for build, mean in (
        (lambda seed: StochasticLinearBudget(0, 8, seed), 8 - 8 * index / 999),
        (lambda seed: InverseBetaBudget(1000, seed), 800 / (beta * (1 / beta).sum())),
    ):
        draws = np.array([budget(build(seed))[:-1] for seed in range(100)])
        part = mean - np.floor(mean)
        # 199 means of 100 draws: five standard errors, of at least one draw
        error = np.sqrt(np.maximum(part * (1 - part), 0.01) / 100)
        assert (np.abs(draws.mean(0) - mean) < 5 * error).all()


def test_budget_by_rate_needs_a_diffusion() -> None:
    operator, _, m = projection()
    solver = Trust(InverseBetaBudget(40), transition=DDIM(10))
    with pytest.raises(InputError, match=r"FlowSchedule.*StochasticLinearBudget"):
        solver(mixture(FlowSchedule()), operator, m, SHAPE, SEEDS)
    with pytest.raises(InputError, match=r"\b10\b"):
        Trust(InverseBetaBudget(9), transition=DDIM(10)).cost(mixture())
    solver(mixture(CosineSchedule()), operator, m, SHAPE, SEEDS)


@pytest.mark.parametrize(
    "budget",
    [
        lambda: ConstantBudget(-1),
        lambda: LinearBudget(-1, 8),
        lambda: StochasticLinearBudget(0.0, -0.5),
    ],
)
def test_negative_budgets_are_refused(budget: Callable[[], TrustBudget]) -> None:
    with pytest.raises(ValueError, match=r"-\d"):
        budget()
