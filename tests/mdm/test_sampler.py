"""Samplers: the law of their samples, their order, and their calls."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from constraints import noise
from mdm import (
    DDIM,
    Ancestral,
    ChainSampler,
    CosineSchedule,
    DPMSolver,
    FlowSchedule,
    GaussianDenoiser,
    Sampler,
    Schedule,
    VPSchedule,
)
from namm import CountCalls
from tests.mdm.small import SCHEDULES, named, unet
from tests.problems import gaussian


# samplers
def rows(sampler: Sampler, denoiser: GaussianDenoiser, seeds: int = 16) -> tuple[Tensor, Tensor]:
    result = sampler(denoiser, (1, 256, 4), range(seeds))
    return result.noisy.reshape(-1, 4), result.y.reshape(-1, 4)


def test_oracle_is_tweedie() -> None:
    denoiser = gaussian()
    y_t = torch.randn(5, 1, 1, 4, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.01, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in denoiser.schedule(t))
    eye = torch.eye(4, dtype=torch.float64)
    marginal = torch.distributions.MultivariateNormal(
        0.5 * alpha[:, 0, 0].expand(5, 4),
        alpha[:, 0] ** 2 * denoiser.cov + sigma[:, 0] ** 2 * eye,
    )
    (score,) = torch.autograd.grad(marginal.log_prob(y_t[:, 0, 0]).sum(), y_t)

    with torch.no_grad():
        torch.testing.assert_close(denoiser(y_t, t), (y_t + sigma**2 * score) / alpha)


SAMPLERS = {
    "ancestral": (ChainSampler(DDIM(300)), VPSchedule()),
    "half": (ChainSampler(DDIM(300, eta=0.5)), VPSchedule()),
    "DDIM": (ChainSampler(DDIM(300, eta=0.0)), VPSchedule()),
    "DDIM cosine": (ChainSampler(DDIM(300, eta=0.0)), CosineSchedule()),
    "flow": (ChainSampler(DDIM(300, eta=0.0)), FlowSchedule()),
    "ancestral flow": (ChainSampler(DDIM(300)), FlowSchedule()),
    "DPMSolver": (DPMSolver(50), VPSchedule()),
    "DPMSolver cosine": (DPMSolver(50), CosineSchedule()),
    "DPMSolver flow": (DPMSolver(50), FlowSchedule()),
    "published": (ChainSampler(Ancestral()), VPSchedule()),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_mean_and_covariance_of_the_prior(name: str) -> None:
    sampler, schedule = SAMPLERS[name]
    denoiser = gaussian(schedule)
    y, mean = rows(sampler, denoiser)
    n, cov = len(y), denoiser.cov
    assert n == 4096

    for end in (y, mean):
        # five standard errors of 4096 rows, and 1 % for the steps
        error = end.mean(dim=0) - 0.5
        assert (error.abs() <= 5 * (cov.diagonal() / n).sqrt() + 0.005).all()
        scatter = ((cov**2 + cov.diagonal()[:, None] * cov.diagonal()) / n).sqrt()
        assert ((torch.cov(end.T) - cov).abs() <= 5 * scatter + 0.01 * cov.max()).all()


def test_published_chain_keeps_its_last_noise() -> None:
    y, mean = rows(ChainSampler(Ancestral()), gaussian(), seeds=4)

    # 4096 numbers: the std is known to 1.1 %
    assert float((y - mean).std()) == pytest.approx(0.0074, rel=0.05)
    clean, same = rows(ChainSampler(DDIM(10)), gaussian(), seeds=1)
    assert torch.equal(clean, same)


@pytest.mark.parametrize("schedule", [VPSchedule(), CosineSchedule()], ids=named)
def test_solver_is_of_second_order(schedule: Schedule) -> None:
    denoiser = gaussian(schedule)

    def solve(steps: int) -> Tensor:
        return DPMSolver(steps)(denoiser, (1, 8, 4), [0, 1]).y

    limit, steps = solve(4000), (20, 40, 80, 160)
    errors = [float((solve(n) - limit).square().mean().sqrt()) for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]

    assert -slope == pytest.approx(2, abs=0.2)
    assert errors[-1] < 1e-3


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers on a recent numpy
def test_solver_is_that_of_diffusers() -> None:
    denoiser, solver = gaussian(), DPMSolver(12)
    times = denoiser.schedule.log_uniform(1.0, solver.end, solver.steps)
    alpha, sigma = denoiser.schedule(times)
    theirs = DPMSolverMultistepScheduler(
        solver_order=2, prediction_type="sample", algorithm_type="dpmsolver++"
    )
    theirs.set_timesteps(12)
    theirs.sigmas = torch.cat([sigma / alpha, torch.zeros(1, dtype=torch.float64)])
    theirs.set_begin_index(0)

    y = float(sigma[0]) * noise([(3, "start")], (1, 8, 4), denoiser.basis)
    for k, t in enumerate(times):
        y = theirs.step(denoiser(y, t), theirs.timesteps[k], y).prev_sample

    # it takes the last, vanishing noise level through exp(-inf), and other steps in float32
    torch.testing.assert_close(
        solver(denoiser, (1, 8, 4), [3]).y, y, rtol=0, atol=1e-5, check_dtype=False
    )


@pytest.mark.parametrize("end", [1e-3, 1e-2])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_solver_divides_the_ratio_evenly(schedule: Schedule, end: float) -> None:
    times = schedule.log_uniform(1.0, end, 9)
    alpha, sigma = schedule(times)
    steps = (alpha.log() - sigma.log()).diff()

    assert times.dtype == torch.float64
    assert float(times[0]) == pytest.approx(1, abs=2e-6) and float(times[-1]) == pytest.approx(end)
    assert (steps > 0).all() and float(steps.max() / steps.min()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        (ChainSampler(), 100),
        (ChainSampler(DDIM(7)), 7),
        (ChainSampler(Ancestral()), 1000),
        (DPMSolver(5), 5),
    ],
)
def test_calls_are_counted(sampler: Sampler, calls: int) -> None:
    denoiser = gaussian()
    with CountCalls(denoiser) as counted:
        sampler(denoiser, (1, 1, 4), [0, 1])

    assert (counted.calls, counted.vjps) == (calls, 0)
    y_t = torch.randn(2, 1, 1, 4, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.5)
    with CountCalls(denoiser) as counted:
        torch.autograd.grad(denoiser(y_t, t).sum() + denoiser(y_t, t).square().sum(), y_t)
        denoiser(y_t, t)
    denoiser(y_t, t)
    assert (counted.calls, counted.vjps) == (3, 2)


@pytest.mark.parametrize("sampler", [DPMSolver(6), ChainSampler(DDIM(6))], ids=named)
def test_sample_is_the_same_alone_and_in_a_batch(sampler: Sampler) -> None:
    denoiser = unet()
    together = sampler(denoiser, (1, 8, 8), range(100, 116)).y
    for i in (0, 5, 15):
        alone = sampler(denoiser, (1, 8, 8), [100 + i]).y
        assert (alone[0] - together[i]).abs().max() <= 1e-5 * together[i].abs().max()
    assert not torch.isclose(together[0], together[1]).all()


def test_chain_that_needs_a_first_guess_draws_no_samples() -> None:
    with pytest.raises(ValueError, match=r"0\.4"):
        ChainSampler(DDIM(start=0.4))
