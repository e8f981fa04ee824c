"""The trust solver against its pseudo-code: its bound, its steps and its costs."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import InputError, derive_seed, noise
from inverse import (
    DPS,
    LGDMC,
    Bound,
    ConstantBudget,
    InverseBetaBudget,
    LinearBudget,
    Residual,
    Run,
    StochasticLinearBudget,
    Trust,
    TrustBudget,
)
from mdm import DDIM, Ancestral, ChainSampler, Level, VPSchedule, descend
from tests.inverse.grids import (
    SEEDS,
    SHAPE,
    Anything,
    Grid,
    differences,
    mixture,
    norm_of_misfit,
    per_sample,
    projection,
)


def free(transition: Any) -> Tensor:
    return ChainSampler(transition)(mixture(), SHAPE, SEEDS).noisy


# Trust
BUDGETS = [ConstantBudget(3), LinearBudget(1, 4), StochasticLinearBudget(0, 4)]


@pytest.mark.parametrize("bound", [None, 2.0])
@pytest.mark.parametrize("plan", BUDGETS, ids=lambda b: type(b).__name__)
def test_trust_is_its_pseudo_code(plan: TrustBudget, bound: float | None) -> None:
    operator, matrix, m = projection()
    grid, w = Grid(10), 0.05
    inner = plan.steps(list(descend(DDIM(10), VPSchedule(), ())), VPSchedule())
    x, accepted = grid.start(), torch.zeros(4)
    for k, t, s, c, std in grid.levels():
        with torch.no_grad():
            e, d = grid.predict(x, t)
        if s == 0:
            x = d
            break
        mean = math.sqrt(grid.kept(s)) * d + c * e
        for _ in range(inner[k]):
            mean = mean.detach().requires_grad_()
            e, d = grid.predict(mean, t)
            active = e.detach().flatten(1).norm(dim=1) <= (bound or math.inf)
            if not active.any():
                break
            (g,) = torch.autograd.grad(norm_of_misfit(matrix, m, d).sum(), mean)
            accepted += active
            mean = mean - w * active.reshape(-1, 1, 1, 1) * g / (per_sample(g) + 1e-6)
        x = mean.detach() + std * grid.noise(k)

    solver = Trust(plan, w, bound, transition=DDIM(10))
    found = solver(mixture(), operator, m, SHAPE, SEEDS)
    torch.testing.assert_close(found.noisy, x, rtol=0, atol=1e-8)
    assert found.report["accepted"] == accepted.tolist()
    assert found.report["inner_steps"] == inner
    if bound:
        assert 0 < accepted.sum() < 4 * sum(inner)  # the bound stops some and not others


def test_gradient_of_trust_is_taken_at_the_moved_mean() -> None:
    operator, matrix, m = projection()
    denoiser = mixture()
    level = list(descend(DDIM(10), denoiser.schedule, SEEDS))[5]
    x = noise([(seed,) for seed in SEEDS], SHAPE, m)

    def mean(inner: int) -> Tensor:
        solver, run = Trust(ConstantBudget(inner), 0.2), Run(denoiser, operator, m)
        return solver.step(run, solver.begin(run, SHAPE), x, level)[1]

    def loss(y: Tensor) -> Tensor:
        return norm_of_misfit(matrix, m, denoiser(y, level.t))

    for j in range(3):
        g = differences(loss, mean(j))
        g = g / (g.norm(dim=1, keepdim=True) + 1e-6)
        moved = (mean(j + 1) - mean(j)).flatten(1)
        torch.testing.assert_close(moved, -0.2 * g, rtol=0, atol=1e-6)


def test_short_step_descends() -> None:
    operator, matrix, m = projection()
    denoiser, w = mixture(), 1e-3
    solver = Trust(ConstantBudget(1), w)
    x = noise([(seed,) for seed in SEEDS], SHAPE, m)

    for level in list(descend(DDIM(10), denoiser.schedule, SEEDS))[:-1]:
        run = Run(denoiser, operator, m)
        _, after = solver.step(run, solver.begin(run, SHAPE), x, level)
        before = level.mean(denoiser(x, level.t), x)

        def loss(y: Tensor, level: Level = level) -> Tensor:
            return norm_of_misfit(matrix, m, denoiser(y, level.t))

        slope = differences(loss, before).norm(dim=1)
        # to first order the loss falls by the step times the length of its gradient
        torch.testing.assert_close(loss(before) - loss(after), w * slope, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("transition", [DDIM(10), DDIM(10, 0.0), Ancestral()])
def test_bound_of_zero_is_the_prior(transition: Any) -> None:
    operator, _, m = projection()
    solver = Trust(ConstantBudget(1), 0.1, bound=0.0, transition=transition)
    found = solver(mixture(), operator, m, SHAPE, SEEDS)

    assert torch.equal(found.noisy, free(transition))
    assert found.report["accepted"] == [0] * 4


def test_constraint_that_asks_for_nothing_leaves_the_prior() -> None:
    operator, m = Residual(Anything()), torch.zeros(4, 1).double()
    for solver in (
        Trust(transition=DDIM(10)),
        DPS(transition=DDIM(10)),
        LGDMC(transition=DDIM(10)),
        LGDMC(transition=DDIM(10), normalise=True),
    ):
        found = solver(mixture(), operator, m, SHAPE, SEEDS)
        assert torch.equal(found.noisy, free(DDIM(10))) and found.report["rejected"] == [0] * 4


@pytest.mark.parametrize("quantile", [0.25, 0.9, 1.0])
def test_estimated_bound_is_the_quantile_of_unguided_runs(quantile: float) -> None:
    operator, _, m = projection()
    denoiser = mixture()
    solver = Trust(ConstantBudget(2), 0.1, Bound(quantile, 32), transition=DDIM(6))
    found = solver(denoiser, operator, m, SHAPE, SEEDS)

    grid, seeds = Grid(6), [derive_seed("trust", i) for i in range(32)]
    x = noise([(seed, "start") for seed in seeds], SHAPE, m) * math.sqrt(1 - grid.kept(1.0))
    expected = []
    with torch.no_grad():
        for k, t, s, c, std in grid.levels():
            e, d = grid.predict(x, t)
            mean = math.sqrt(grid.kept(s)) * d + c * e
            norms = grid.predict(mean, t)[0].flatten(1).norm(dim=1)
            expected.append(float(np.quantile(norms.numpy(), quantile)))
            x = mean + std * noise([(seed, k) for seed in seeds], SHAPE, m)
    assert found.report["bounds"] == pytest.approx(expected, rel=1e-9)

    # a prepared solver has estimated the bound once for all its calls
    calls = denoiser.calls
    prepared = solver.prepare(denoiser, SHAPE)
    assert denoiser.calls == calls + 2 * 6 and prepared.bound == found.report["bounds"]
    again = prepared(denoiser, operator, m, SHAPE, SEEDS)
    assert torch.equal(found.noisy, again.noisy) and denoiser.calls == 2 * calls
    assert prepared.cost(denoiser).calls + 2 * 6 == solver.cost(denoiser).calls
    with pytest.raises(InputError, match=r"\b6\b.*\b2\b"):
        Trust(bound=[1.0, 2.0], transition=DDIM(6))(denoiser, operator, m, SHAPE, SEEDS)


def test_sample_that_fails_the_bound_stays_at_its_mean() -> None:
    operator, _, m = projection()
    denoiser = mixture()
    level = list(descend(DDIM(10), denoiser.schedule, SEEDS))[5]
    x = noise([(seed,) for seed in SEEDS], SHAPE, m) * torch.arange(1, 5).reshape(4, 1, 1, 1)
    mean = level.mean(denoiser(x, level.t), x)
    eps = (mean - level.alpha_t * denoiser(mean, level.t)) / level.sigma_t
    norms = eps.flatten(1).norm(dim=1)
    bound = float(norms.median()) + 0.2
    solver, run = Trust(ConstantBudget(4), 1e-3, bound), Run(denoiser, operator, m)
    state = solver.begin(run, SHAPE)
    _, moved = solver.step(run, state, x, level)

    fails = norms > bound
    assert 0 < fails.sum() < 4
    assert torch.equal(moved[fails], mean[fails])
    assert (moved != mean)[~fails].any(dim=-1).all()
    assert state.accepted.tolist() == [0 if fail else 4 for fail in fails.tolist()]


@pytest.mark.parametrize("plan", [StochasticLinearBudget(0, 3), InverseBetaBudget(40)])
def test_cost_of_a_random_budget_is_known_too(plan: TrustBudget) -> None:
    operator, _, m = projection()
    denoiser, solver = mixture(), Trust(plan, transition=DDIM(12))
    inner = sum(solver(denoiser, operator, m, SHAPE, SEEDS).report["inner_steps"])

    assert (denoiser.calls, denoiser.vjps) == solver.cost(denoiser) == (12 + inner, inner)


def test_samples_that_all_stop_cost_less() -> None:
    operator, _, m = projection()
    denoiser, solver = mixture(), Trust(bound=0.0, transition=DDIM(7))
    solver(denoiser, operator, m, SHAPE, SEEDS)

    # one call a level finds that all have failed, with the gradient of the same pass
    assert (denoiser.calls, denoiser.vjps) == (7 + 6, 6)
    assert solver.cost(denoiser) == (7 + 24, 24)
