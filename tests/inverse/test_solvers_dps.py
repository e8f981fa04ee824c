"""DPS in both spaces: its gradient, its published chain and its closed forms."""

import math

import pytest
import torch
from torch import Tensor

from constraints import Burgers, Distance, Given, noise
from inverse import DPS, DSG, Pullback, Run, Select
from mdm import DDIM, Ancestral, ChainSampler, GaussianDenoiser, Level, Step, descend
from namm import IdentityMirror
from tests.inverse.answers import TRANSITIONS, measured, solve
from tests.inverse.grids import SEEDS, SHAPE, N, mixture, projection
from tests.problems import gaussian, tiny_denoiser, tiny_mirror


# DPS
def test_mirror_dps_with_the_identity_is_dps() -> None:
    for transition in TRANSITIONS.values():
        solver = DPS(0.05, constraint=Burgers(), transition=transition)
        operator, _ = measured(3)
        one = solve(solver)
        other = solve(solver, operator=Pullback(operator, IdentityMirror()))

        assert torch.equal(one.noisy, other.noisy) and torch.equal(one.y, other.y)


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_guidance_is_the_gradient_of_its_loss(constrained: bool, mirrored: bool) -> None:
    torch.manual_seed(2)
    denoiser, mirror = gaussian(), tiny_mirror().double()
    select = Select(-2, [0, 2, 3], 6, 0.2).double()
    operator = Pullback(select, mirror) if mirrored else select
    constraint = Burgers("crank_nicolson") if constrained else None
    solver = DPS(0.07, constraint, weight=30.0)
    t = torch.tensor(0.4, dtype=torch.float64)
    y_t = torch.randn(2, 1, 6, 4, dtype=torch.float64)
    m = torch.randn(2, 1, 3, 4, dtype=torch.float64)

    def loss(y_t: Tensor, k: int) -> Tensor:
        x = denoiser(y_t, t)
        x = mirror.inverse(x) if mirrored else x
        norm = ((m[k] - x[..., [0, 2, 3], :]) / 0.2).square().sum(dim=(1, 2, 3)).sqrt()
        return norm if constraint is None else norm + 30 * constraint(x)

    # a transition of which only the move of the guidance is left
    level = Level(0, t, 0 * t, Step(0.0, 0.0, 0.0), 1.0, 1.0, 1.0, 0.0, [0, 1])
    _, move = solver.step(Run(denoiser, operator, m), None, y_t.clone(), level)
    h = 1e-5 * torch.eye(24, dtype=torch.float64).reshape(24, 1, 6, 4)
    with torch.no_grad():
        for k in range(2):
            slope = (loss(y_t[k] + h, k) - loss(y_t[k] - h, k)) / 2e-5
            torch.testing.assert_close(move[k].flatten(), -0.07 * slope, rtol=1e-5, atol=1e-7)


def test_published_chain_is_its_pseudo_code() -> None:
    denoiser, operator = gaussian(mean=0.0), Select(-1, 2, 4, 0.2).double()
    m = torch.randn(2, 1, 3, 2, dtype=torch.float64)
    found = DPS(0.05, transition=Ancestral())(denoiser, operator, m, (1, 3, 4), [7, 8])

    b = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    a, ab = 1 - b, torch.cumprod(1 - b, dim=0)
    x = noise([(7, "start"), (8, "start")], (1, 3, 4), m) * float(
        denoiser.schedule(ab[0] * 0 + 1)[1]
    )
    for k, tau in enumerate(torch.linspace(1, 1e-3, 1000, dtype=torch.float64)):
        i = int(torch.floor(999 * tau))
        alpha = torch.exp(-(20 - 0.1) * tau**2 / 4 - 0.1 * tau / 2)
        s = (1 - alpha**2).sqrt()
        x.requires_grad_()
        # the score of the marginal, through which Tweedie's formula gives the denoised field
        precision = torch.linalg.inv(alpha**2 * denoiser.cov + s**2 * torch.eye(4).double())
        x0 = (x - s**2 * x @ precision) / alpha
        norm = ((m - x0[..., :2]) / 0.2).flatten(1).norm(dim=1)
        (gradient,) = torch.autograd.grad(norm.sum(), x)
        before = ab[i - 1] if i else torch.ones(())
        mean = b[i] * before.sqrt() / (1 - ab[i]) * x0
        mean = mean + (1 - before) * a[i].sqrt() / (1 - ab[i]) * x
        variance = b[i] if i else b[1] * (1 - ab[0]) / (1 - ab[1])
        mean = (mean - 0.05 * gradient).detach()
        x = mean + variance.sqrt() * noise([(7, k), (8, k)], (1, 3, 4), m)

    torch.testing.assert_close(found.y, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.noisy, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("protocol", TRANSITIONS)
def test_no_guidance_is_the_prior(protocol: str) -> None:
    transition = TRANSITIONS[protocol]
    guided = solve(DPS(0.0, constraint=Burgers(), transition=transition))
    free = ChainSampler(transition)(tiny_denoiser(), (1, 8, 8), range(100, 103))

    assert torch.equal(guided.noisy, free.noisy) and torch.equal(guided.y, free.y)


class Anything(Distance):
    """Satisfied by all fields."""

    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
        return (0 * x).flatten(1).sum(dim=1)


def test_constraint_that_asks_for_nothing_changes_nothing() -> None:
    plain, guided = (solve(DPS(0.05, c, transition=DDIM(12))) for c in (None, Anything()))
    moved = solve(DPS(0.05, Burgers(), transition=DDIM(12)))

    assert torch.equal(plain.noisy, guided.noisy)
    assert not torch.equal(plain.y, moved.y)


def test_guidance_brings_the_answer_to_the_measurement() -> None:
    operator = Select(-1, 2, 4, 0.1)
    x = 0.5 + 0.6 * noise([(i,) for i in range(32)], (1, 8, 4)).double()
    m = operator.measure(x, range(32))
    denoiser = gaussian()

    def misfit(zeta: float) -> float:
        solver = DPS(zeta, transition=DDIM(60))
        y = solver(denoiser, operator, m, (1, 8, 4), range(32)).y
        return float((operator(y) - m).square().mean().sqrt())

    # two independent fields differ by sqrt(2) times their std of 0.6
    assert misfit(0.0) == pytest.approx(0.6 * math.sqrt(2), rel=0.1)
    assert misfit(0.05) < 0.2


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
    _, guided = solver.step(Run(denoiser, operator, m), None, x, level)
    _, plain = DPS(0.0).step(Run(denoiser, operator, m), None, x, level)

    alpha, sigma = level.alpha_t, level.sigma_t
    cov = denoiser.cov
    k = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(N).double())
    r = m.flatten(1) - (0.25 + (x.flatten(1) - alpha * 0.25) @ k.T) @ matrix.T
    gradient = -(r / std**2) @ matrix @ k
    if power == 1:
        gradient = gradient / (r / std).norm(dim=1, keepdim=True)
    torch.testing.assert_close((guided - plain).flatten(1), -0.07 * gradient, rtol=0, atol=1e-12)


class Counting(IdentityMirror):
    """The identity, which counts its inverse passes."""

    passes = 0

    def inverse(self, y: Tensor) -> Tensor:
        self.passes += 1
        return y


@pytest.mark.parametrize("constraint", [None, Burgers()])
def test_each_step_takes_one_inverse_pass(constraint: Burgers | None) -> None:
    select, mirror = Select(-1, 2, 4), Counting()
    m = torch.zeros(2, 1, 3, 2, dtype=torch.float64)
    for solver in (DPS(0.05, constraint, transition=DDIM(4)), DSG(1.0, 1, constraint)):
        mirror.passes = 0
        solver.transition = DDIM(4)
        denoiser = gaussian()
        found = solver(denoiser, Pullback(select, mirror), m, (1, 3, 4), [0, 1])
        assert mirror.passes == denoiser.vjps > 0
        assert torch.equal(found.y, solver(denoiser, select, m, (1, 3, 4), [0, 1]).y)
