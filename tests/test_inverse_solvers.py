"""The solvers that descend a loss, against pseudo-code, closed forms and finite differences; and
what holds for every solver: costs, batches, modes, processes, refusals."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch import Tensor

from constraints import Burgers, Constraint, InputError, derive_seed, noise
from inverse import (
    DPS,
    DSG,
    LGDMC,
    ConstantBudget,
    Cost,
    CPiGDM,
    Downsample,
    Inverse,
    InverseBetaBudget,
    LinearBudget,
    Operator,
    PiGDM,
    Pullback,
    RandomProjection,
    Residual,
    Run,
    Select,
    Sequential,
    Solver,
    StochasticLinearBudget,
    Trust,
    TrustBudget,
    stochastic_round,
)
from mdm import (
    DDIM,
    Ancestral,
    ChainSampler,
    CosineSchedule,
    Denoiser,
    FlowSchedule,
    GaussianDenoiser,
    Level,
    MixtureDenoiser,
    Result,
    Schedule,
    VPSchedule,
    descend,
)
from problems import (
    Affine,
    Spawned,
    gaussian,
    make_trainer,
    processes,
    record,
    recorded,
    tiny_data,
    tiny_denoiser,
    tiny_mirror,
)

N, SHAPE, STD = 16, (1, 1, 16), 0.125
SEEDS = range(20, 24)


class Anything(Constraint):
    """Satisfied by all fields."""

    def forward(self, x: Tensor) -> Tensor:
        return (0 * x).flatten(1).sum(dim=1)


def basis() -> Tensor:
    return torch.from_numpy(dct(np.eye(N), norm="ortho", axis=0))


def mixture(schedule: Schedule | None = None) -> MixtureDenoiser:
    c = basis()
    k = torch.arange(1, N + 1, dtype=torch.float64)
    covs = torch.stack([c.T @ torch.diag(v) @ c for v in (0.5 / k**2, 0.1 + 0.3 / k)])
    means = torch.stack([c[1] + 0.5 * c[3], -c[1] + 0.3 * c[2]])
    return MixtureDenoiser(torch.tensor([0.4, 0.6]).double(), means, covs, schedule)


def projection() -> tuple[RandomProjection, Tensor, Tensor]:
    """An operator, its matrix, and measurements."""

    operator = RandomProjection(6, [1, N], 0, STD).double()
    x = mixture().sample(range(500, 500 + len(SEEDS))).reshape(-1, *SHAPE)
    matrix = operator(torch.eye(N, dtype=torch.float64).reshape(N, *SHAPE)).flatten(1).T
    return operator, matrix, operator.measure(x, range(len(SEEDS)))


def free(transition: Any) -> Tensor:
    return ChainSampler(transition)(mixture(), SHAPE, SEEDS).y


def per_sample(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


class Grid:
    """The chain of the papers with eta = 1, on times that are evenly spaced."""

    def __init__(self, steps: int) -> None:
        self.times = np.linspace(1, 0, steps + 1).tolist()
        self.denoiser = mixture()

    def kept(self, t: float) -> float:
        return math.exp(-(0.1 * t + 19.9 * t**2 / 2))  # alpha-bar

    def start(self) -> Tensor:
        xi = noise([(seed, "start") for seed in SEEDS], SHAPE, self.denoiser.like)
        return math.sqrt(1 - self.kept(1.0)) * xi

    def predict(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """The noise E and the clean field D."""

        d = self.denoiser(x, torch.tensor(t, dtype=torch.float64))
        return (x - math.sqrt(self.kept(t)) * d) / math.sqrt(1 - self.kept(t)), d

    def levels(self) -> list[tuple[int, float, float, float, float]]:
        """k, t, s, c and sigma of each level."""

        found = []
        for k, (t, s) in enumerate(itertools.pairwise(self.times)):
            ab, ab_s = self.kept(t), self.kept(s)
            std = math.sqrt((1 - ab_s) / (1 - ab) * (1 - ab / ab_s))
            c = math.sqrt(ab / ab_s) * (1 - ab_s) / math.sqrt(1 - ab)
            found.append((k, t, s, c, std))
        return found

    def noise(self, k: int, *name: Any) -> Tensor:
        return noise([(seed, k, *name) for seed in SEEDS], SHAPE, self.denoiser.like)


def norm_of_misfit(matrix: Tensor, m: Tensor, x: Tensor, std: float = STD) -> Tensor:
    return ((m.flatten(1) - x.flatten(1) @ matrix.T) / std).norm(dim=1)


# DPS


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("whiten", [False, True])
def test_options_of_dps_have_their_closed_forms(whiten: bool, power: int) -> None:
    denoiser = GaussianDenoiser(mixture().covs[1], 0.25)
    operator, matrix, m = projection()
    operator.std = torch.linspace(0.1, 0.6, 6).double().reshape(1, 1, 6)
    std = operator.std.flatten() if whiten else torch.ones(6).double()
    solver = DPS(0.07, whiten=whiten, power=power)
    level = list(descend(DDIM(10), denoiser.schedule, SEEDS))[6]
    x = noise([(seed,) for seed in SEEDS], SHAPE, m)
    _, guided = solver.step(Run(denoiser, operator, m), x, level)
    _, plain = DPS(0.0).step(Run(denoiser, operator, m), x, level)

    alpha, sigma = level.alpha_t, level.sigma_t
    cov = denoiser.cov
    k = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(N).double())
    r = m.flatten(1) - (0.25 + (x.flatten(1) - alpha * 0.25) @ k.T) @ matrix.T
    gradient = -(r / std**2) @ matrix @ k
    if power == 1:
        gradient = gradient / (r / std).norm(dim=1, keepdim=True)
    torch.testing.assert_close((guided - plain).flatten(1), -0.07 * gradient, rtol=0, atol=1e-12)


# DSG


@pytest.mark.parametrize("gamma", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("interval", [1, 3])
def test_dsg_is_its_pseudo_code(interval: int, gamma: float) -> None:
    operator, matrix, m = projection()
    grid = Grid(10)
    x = grid.start()
    for k, t, s, c, std in grid.levels():
        x = x.detach().requires_grad_()
        e, d = grid.predict(x, t)
        (g,) = torch.autograd.grad(norm_of_misfit(matrix, m, d).sum(), x)
        mean = math.sqrt(grid.kept(s)) * d.detach() + c * e.detach()
        z = std * grid.noise(k)
        if s == 0:
            x = d.detach()
        elif k % interval:
            x = mean + z
        else:
            r = math.sqrt(N) * std
            v = z + gamma * (-r * g / (per_sample(g) + 1e-8) - z)
            x = mean + r * v / (per_sample(v) + 1e-8)
            torch.testing.assert_close(
                per_sample(x - mean).flatten(), torch.full((4,), r).double()
            )

    found = DSG(gamma, interval, transition=DDIM(10))(mixture(), operator, m, SHAPE, SEEDS)
    torch.testing.assert_close(found.noisy, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("transition", [DDIM(12), DDIM(12, 0.5)])
def test_guided_step_of_dsg_lands_on_its_sphere(transition: DDIM) -> None:
    operator, _, m = projection()
    denoiser, y = mixture(), noise([(seed,) for seed in SEEDS], SHAPE, m)
    zero = Residual(Anything())
    for level in descend(transition, denoiser.schedule, SEEDS):
        radius = torch.full((4,), 4 * level.step.std).double()
        for gamma in (0.0, 0.4, 1.0):
            y_s, mean = DSG(gamma).step(Run(denoiser, operator, m), y, level)
            # 1e-8 keeps a zero from being divided by
            torch.testing.assert_close(per_sample(y_s - mean).flatten(), radius, rtol=1e-5, atol=0)
            if gamma == 0 and level.step.std:
                z = level.noise(y)
                random = mean + 4 * level.step.std * z / per_sample(z)
                torch.testing.assert_close(y_s, random, rtol=0, atol=1e-6)
            if gamma == 0.4:
                # nothing to descend: a random point of the sphere
                y_s, mean = DSG(gamma).step(Run(denoiser, zero, 0 * m[:, 0, :1]), y, level)
                torch.testing.assert_close(
                    per_sample(y_s - mean).flatten(), radius, rtol=1e-5, atol=0
                )


# LGD-MC


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("radius", ["posterior", "published"])
def test_lgd_is_its_pseudo_code(radius: Any, normalise: bool) -> None:
    operator, matrix, m = projection()
    grid, n = Grid(8), 5
    x = grid.start()
    for k, t, s, c, std in grid.levels():
        ratio = math.sqrt((1 - grid.kept(t)) / grid.kept(t)) if radius == "posterior" else std
        r = ratio / math.sqrt(1 + ratio**2)
        if radius == "posterior":
            assert r == pytest.approx(math.sqrt(1 - grid.kept(t)), rel=1e-12)
        x = x.detach().requires_grad_()
        e, d = grid.predict(x, t)
        z = noise([(seed, k, "lgd") for seed in SEEDS], (n, *SHAPE), x).unbind(dim=1)
        chances = [torch.exp(-norm_of_misfit(matrix, m, d + r * z_i)) for z_i in z]
        (g,) = torch.autograd.grad(-torch.log(sum(chances) / n).sum(), x)
        if normalise:
            g = g / per_sample(g)
        mean = math.sqrt(grid.kept(s)) * d.detach() + c * e.detach()
        x = mean + std * grid.noise(k) - 0.05 * g

    solver = LGDMC(n, 0.05, normalise, radius, transition=DDIM(8))
    torch.testing.assert_close(
        solver(mixture(), operator, m, SHAPE, SEEDS).y, x, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("power", [1, 2])
def test_ball_of_no_radius_is_the_point(power: int) -> None:
    operator, _, m = projection()
    for eta, tolerance in ((0.0, 1e-10), (1e-5, 1e-3)):
        transition = DDIM(10, eta)
        ball = LGDMC(4, 0.01, radius="published", power=power, transition=transition)
        point = DPS(0.01, power=power, transition=transition)
        a, b = (s(mixture(), operator, m, SHAPE, SEEDS).y for s in (ball, point))
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    wide = LGDMC(4, 0.01, power=power, transition=transition)
    assert (wide(mixture(), operator, m, SHAPE, SEEDS).y - b).abs().max() > 1e-2


@pytest.mark.parametrize("schedule", [VPSchedule(), FlowSchedule()])
def test_gradient_of_lgd_is_that_of_its_loss(schedule: Schedule) -> None:
    operator, matrix, m = projection()
    denoiser, n = mixture(schedule), 3
    level = list(descend(DDIM(10), denoiser.schedule, SEEDS))[6]
    x = noise([(seed,) for seed in SEEDS], SHAPE, m)
    run = Run(denoiser, operator, m)
    _, guided = LGDMC(n, 0.3).step(run, x, level)
    _, plain = LGDMC(n, 0.0).step(run, x, level)
    r = level.sigma_t / math.sqrt(level.alpha_t**2 + level.sigma_t**2)
    z = noise([(seed, 6, "lgd") for seed in SEEDS], (n, *SHAPE), x).unbind(dim=1)

    def loss(x: Tensor) -> Tensor:
        d = denoiser(x, level.t)
        values = torch.stack([norm_of_misfit(matrix, m, d + r * z_i) for z_i in z])
        return -torch.logsumexp(-values, dim=0)

    torch.testing.assert_close(
        (guided - plain).flatten(1), -0.3 * differences(loss, x), rtol=1e-6, atol=1e-8
    )


@torch.no_grad()
def differences(loss: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """The gradient of each sample's loss by central differences, with shape `(B, N)`."""

    columns = []
    for i in range(N):
        step = torch.zeros(SHAPE, dtype=x.dtype)
        step[..., i] = h
        columns.append((loss(x + step) - loss(x - step)) / (2 * h))
    return torch.stack(columns, dim=1)


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
        solver.begin(run, SHAPE)
        return solver.step(run, x, level)[1]

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
        solver.begin(run, SHAPE)
        _, after = solver.step(run, x, level)
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
    solver = Trust(ConstantBudget(2), 0.1, quantile=quantile, bound_samples=32, transition=DDIM(6))
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

    # it is estimated once for a denoiser and a shape
    calls = denoiser.calls
    again = solver(denoiser, operator, m, SHAPE, SEEDS)
    assert torch.equal(found.noisy, again.noisy) and denoiser.calls - calls == calls - 2 * 6


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
    solver.begin(run, SHAPE)
    _, moved = solver.step(run, x, level)

    fails = norms > bound
    assert 0 < fails.sum() < 4
    assert torch.equal(moved[fails], mean[fails])
    assert (moved != mean)[~fails].any(dim=-1).all()
    assert run.facts["accepted"] == [0 if fail else 4 for fail in fails.tolist()]


# the discrete chain


class Discrete(Schedule):
    """The discrete chain of 1000 rates as a schedule of times i / 1000."""

    def __init__(self) -> None:
        kept = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), dim=0)
        self.kept = torch.cat([kept.new_ones(1), kept])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.kept[torch.round(1000 * t).long()]
        return kept.sqrt(), (1 - kept).sqrt()


def test_stochastic_ddim_of_unit_stride_is_ancestral() -> None:
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    kept = torch.cat([beta.new_ones(1), torch.cumprod(1 - beta, dim=0)])
    levels = list(descend(DDIM(1000), Discrete(), ()))
    published = list(descend(Ancestral(), VPSchedule(), ()))
    for level, other in zip(levels, published, strict=True):
        i = 1000 - level.k
        ab, ab_s, b = kept[i], kept[i - 1], beta[i - 1]
        posterior = (b * ab_s.sqrt(), (1 - ab_s) * (1 - b).sqrt(), (1 - ab_s) * b)
        exact = [float(v / (1 - ab)) for v in posterior]
        exact[2] = math.sqrt(exact[2])
        # differences of numbers of order 1 over 1 - ab, which is at least 1e-4
        assert list(level.step) == pytest.approx(exact, rel=0, abs=1e-11)
        closed = math.sqrt(ab / ab_s) * (1 - ab_s) / math.sqrt(1 - ab)
        assert level.step.c2 * math.sqrt(1 - ab) == pytest.approx(float(closed), abs=1e-12)
        assert list(other.step[:2]) == pytest.approx(exact[:2], rel=0, abs=1e-11)


# what holds for every solver


GRID = DDIM(6)
FLAT = DDIM(6, 0.0)
SOLVERS: dict[str, Sequential] = {
    "DPS": DPS(0.05, Burgers(), transition=GRID),
    "DPS squared": DPS(0.002, power=2, whiten=False, transition=GRID),
    "DSG": DSG(0.2, 2, Burgers(), transition=GRID),
    "LGDMC": LGDMC(3, 0.05, transition=GRID),
    "LGDMC published": LGDMC(2, 0.05, True, "published", 2, Burgers(), transition=GRID),
    "Trust": Trust(StochasticLinearBudget(1, 3), 0.1, transition=GRID),
    "Trust bounded": Trust(
        ConstantBudget(2),
        0.1,
        quantile=0.9,
        bound_samples=8,
        constraint=Burgers(),
        transition=GRID,
    ),
    "PiGDM": PiGDM(0.5, transition=FLAT),
    "PiGDM integrated": PiGDM(2.0, "conjugate", integrate=True, transition=FLAT),
    "PiGDM from the middle": PiGDM(1.0, transition=DDIM(6, 0.5, 0.5)),
    "CPiGDM": CPiGDM(2.0, transition=FLAT),
    "CPiGDM lambda": CPiGDM(5.0, lam=-0.2, transition=DDIM(6, 0.0, 0.4)),
}


def measured(n: int, mirrored: bool) -> tuple[Operator, Tensor]:
    operator = Select(-1, 3, 8, 0.2)
    x = noise([("truth", i) for i in range(n)], (1, 8, 8))
    m = operator.measure(x, range(n))
    torch.manual_seed(0)
    return Pullback(operator, tiny_mirror().eval()) if mirrored else operator, m


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_sample_is_the_same_alone_and_in_a_batch(name: str, mirrored: bool) -> None:
    solver, denoiser = SOLVERS[name], tiny_denoiser()
    operator, m = measured(16, mirrored)
    together = solver(denoiser, operator, m, (1, 8, 8), range(16))
    again = solver(denoiser, operator, m, (1, 8, 8), range(16))

    assert together.noisy.shape == (16, 1, 8, 8) and torch.isfinite(together.noisy).all()
    assert torch.equal(together.noisy, again.noisy) and torch.equal(together.y, again.y)
    for i in (0, 7, 15):
        alone = solver(denoiser, operator, m[i : i + 1], (1, 8, 8), [i])
        torch.testing.assert_close(alone.noisy[0], together.noisy[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.y[0], together.y[i], rtol=0, atol=1e-5)
    other = solver(denoiser, operator, m, (1, 8, 8), range(1, 17))
    assert not torch.equal(other.noisy, together.noisy)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_solver_finds_its_gradients_in_inference_mode(name: str, mirrored: bool) -> None:
    solver, denoiser = SOLVERS[name], tiny_denoiser()
    operator, m = measured(3, mirrored)
    expected = solver(denoiser, operator, m, (1, 8, 8), range(3))
    with torch.inference_mode():
        m = measured(3, mirrored)[1]  # where a data loader makes it
        found = solver(denoiser, operator, m, (1, 8, 8), range(3)).y.clone()

    assert torch.equal(found, expected.y)
    assert all(weight.grad is None for weight in denoiser.parameters())


COSTS: list[tuple[Sequential, Cost]] = [
    (DPS(transition=DDIM(7)), Cost(7, 7)),
    (DPS(constraint=Anything(), transition=Ancestral()), Cost(1000, 1000)),
    # the last step has no noise to turn
    (DSG(transition=DDIM(7)), Cost(7, 6)),
    (DSG(interval=3, transition=DDIM(7)), Cost(7, 2)),
    (DSG(transition=DDIM(7, 0.0)), Cost(7, 0)),
    (DSG(interval=10, transition=Ancestral()), Cost(1000, 100)),
    (LGDMC(4, transition=DDIM(7)), Cost(7, 7)),
    (Trust(transition=DDIM(7)), Cost(7 + 24, 24)),
    (Trust(ConstantBudget(0), transition=DDIM(7)), Cost(7, 0)),
    (Trust(ConstantBudget(2), quantile=1.0, transition=DDIM(7)), Cost(7 + 12 + 14, 12)),
    (Trust(LinearBudget(1, 4), transition=DDIM(200)), Cost(696, 496)),
    (Trust(LinearBudget(1, 8), transition=DDIM(200)), Cost(1092, 892)),
    (PiGDM(transition=DDIM(7, 0.0)), Cost(7, 7)),
    (PiGDM(transition=DDIM(7, 0.3, 0.6)), Cost(7, 7)),
    (PiGDM(0.01, transition=Ancestral()), Cost(1000, 1000)),
    (CPiGDM(transition=DDIM(7, 0.0)), Cost(7, 7)),
    (CPiGDM(lam=0.3, transition=DDIM(7, 0.0, 0.4)), Cost(7, 7)),
    (PiGDM(), Cost(20, 20)),
    (CPiGDM(), Cost(20, 20)),
]


@pytest.mark.parametrize(("solver", "cost"), COSTS)
def test_cost_is_known_before_and_counted_after(solver: Sequential, cost: Cost) -> None:
    operator, _, m = projection()
    denoiser = mixture()
    if isinstance(solver, Trust) and solver.quantile is not None:
        # a bound that stops nobody
        solver.estimate(denoiser, SHAPE)
        assert denoiser.calls == 14
        assert solver._estimated is not None
        solver._estimated = (*solver._estimated[:2], [math.inf] * 7)
    solver(denoiser, operator, m, SHAPE, SEEDS)

    assert Cost(denoiser.calls, denoiser.vjps) == solver.cost(denoiser) == cost


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


class Parade(Solver):
    """Several solvers one after the other, each of which leaves its samples in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.solvers = torch.nn.ModuleDict(SOLVERS)
        for name in SOLVERS:
            (folder / name).mkdir(parents=True)

    def __call__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
    ) -> Result:
        for name, solver in self.solvers.items():
            result = solver(denoiser, operator, m, shape, seeds)
            record(self.folder / name, seeds, result)
        return result

    def cost(self, denoiser: Denoiser) -> Cost:
        return Cost(0, 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mirrored", [False, True])
def test_two_processes_find_the_answers_of_one(tmp_path: Path, mirrored: bool) -> None:
    def answers(name: str, **options: Any) -> dict[str, dict[str, Tensor]]:
        folder = tmp_path / name
        mirror = Affine(2.0, 1.0, 0.5) if mirrored else None
        parade, data = Parade(folder / "notes"), tiny_data(tmp_path, batch_size=2)
        operator = Select(-1, 3, 8, 0.2)
        stage = Inverse(
            tiny_denoiser(), Burgers(), operator, parade, mirror, fields=5, samples=2, seed=3
        )
        make_trainer(folder, **options).test(stage, data, verbose=False)
        return {name: recorded(folder / "notes" / name) for name in SOLVERS}

    one = answers("one")
    with processes():
        two = answers("two", devices=2, strategy=Spawned())
    for name in SOLVERS:
        assert one[name].keys() == two[name].keys() and len(one[name]) == 10
        for seed, sample in one[name].items():
            torch.testing.assert_close(two[name][seed], sample, rtol=0, atol=1e-5)


# what is refused


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: DPS(power=3), "power 1 or 2 of the norm, got 3"),
    (lambda: LGDMC(samples=0), "at least 1 sample"),
    (lambda: LGDMC(power=0), "power 1 or 2"),
    (lambda: DSG(gamma=1.5), r"gamma in \[0, 1\]"),
    (lambda: DSG(gamma=-0.1), r"gamma in \[0, 1\]"),
    (lambda: DSG(interval=0), "interval of at least 1"),
    (lambda: Trust(bound=3.0, quantile=0.9), "leave one out"),
    (lambda: Trust(quantile=0.9, transition=DDIM(start=0.4)), "starts at 0.4"),
    (lambda: Trust(quantile=0.0), r"quantile in \(0, 1\]"),
    (lambda: CosineSchedule(1.0), "between 0 and 1, got 1.0"),
    (lambda: Trust(quantile=1.5), r"quantile in \(0, 1\]"),
]


@pytest.mark.parametrize(("build", "words"), MISTAKES)
def test_options_of_no_meaning_are_refused(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_published_chain_is_that_of_its_schedule() -> None:
    operator, _, m = projection()
    for schedule in (FlowSchedule(), CosineSchedule(), VPSchedule(0.1, 5.0)):
        for solver in (DPS(transition=Ancestral()), PiGDM(transition=Ancestral())):
            with pytest.raises(InputError, match="VPSchedule.*use mdm.DDIM"):
                solver(mixture(schedule), operator, m, SHAPE, SEEDS)


def test_budget_by_rate_needs_a_diffusion() -> None:
    operator, _, m = projection()
    solver = Trust(InverseBetaBudget(40), transition=DDIM(10))
    with pytest.raises(InputError, match="FlowSchedule: use StochasticLinearBudget"):
        solver(mixture(FlowSchedule()), operator, m, SHAPE, SEEDS)
    with pytest.raises(InputError, match="at least the 10 calls.*fewer steps"):
        Trust(InverseBetaBudget(9), transition=DDIM(10)).cost(mixture())
    solver(mixture(CosineSchedule()), operator, m, SHAPE, SEEDS)


@pytest.mark.parametrize("kind", [DPS, DSG, LGDMC, Trust])
def test_start_from_a_guess_needs_a_pseudo_inverse(kind: Any) -> None:
    solver = kind(transition=DDIM(4, start=0.5))
    m = torch.zeros(4, 1).double()
    with pytest.raises(InputError, match="Residual has no pseudo-inverse.*a start of 1"):
        solver(mixture(), Residual(Anything()), m, SHAPE, SEEDS)


@pytest.mark.parametrize("start", [0.5, 1.0])
@pytest.mark.parametrize("kind", [DPS, DSG, LGDMC, Trust, PiGDM, CPiGDM])
def test_precision_is_that_of_the_denoiser(kind: Any, start: float) -> None:
    operator, _, m = projection()
    solver = kind(transition=DDIM(4, start=start))
    y = solver(mixture().float(), operator.float(), m, SHAPE, SEEDS).y
    assert m.dtype == torch.float64 and y.dtype == torch.float32
    assert y.isfinite().all()


@pytest.mark.parametrize("kind", [DPS, DSG, LGDMC, Trust, PiGDM, CPiGDM])
def test_start_from_a_guess_is_the_lift_with_noise(kind: Any) -> None:
    """With one step and no guidance, the answer is the denoised start."""

    operator = Downsample(4, [-1], STD).double()
    m = operator(mixture().sample(range(4)).reshape(-1, *SHAPE))
    solver = kind(transition=DDIM(1, 0.0, 0.5))
    for name in ("zeta", "step_size", "weight"):
        if hasattr(solver, name):
            setattr(solver, name, 0.0)
    t = torch.tensor(0.5).double()
    alpha, sigma = VPSchedule()(t)
    xi = noise([(seed, "start") for seed in SEEDS], SHAPE, m)
    expected = mixture()(alpha * operator.pinv(m) + sigma * xi, t)
    torch.testing.assert_close(
        solver(mixture(), operator, m, SHAPE, SEEDS).y, expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    "budget",
    [
        lambda: ConstantBudget(-1),
        lambda: LinearBudget(-1, 8),
        lambda: StochasticLinearBudget(0.0, -0.5),
    ],
)
def test_negative_budgets_are_refused(budget: Callable[[], TrustBudget]) -> None:
    with pytest.raises(ValueError, match="not negative, got .*-"):
        budget()


def test_integral_that_diverges_is_refused() -> None:
    solver = PiGDM(1.0, "bayes", integrate=True, transition=DDIM(4, eta=0.0))
    operator = Select(-1, 2, 4, 0.0)
    m = torch.zeros(1, 1, 3, 2)
    with pytest.raises(InputError, match="diverges at time 0, unless.*noise.*CPiGDM"):
        solver(gaussian(dtype=torch.float32), operator, m, (1, 3, 4), [0])
