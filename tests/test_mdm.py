"""The diffusion prior: schedules, transitions, samplers, denoisers, and their stages."""

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from torch import Tensor, nn

from constraints import Burgers, Constraint, Sum, derive_seed, noise
from mdm import (
    DDIM,
    MDM,
    Ancestral,
    ChainSampler,
    CosineSchedule,
    DiffusersDenoiser,
    DPMSolver,
    FlowSchedule,
    GaussianDenoiser,
    Generation,
    Sampler,
    SampleWriter,
    Schedule,
    VPSchedule,
    load_denoiser,
)
from namm import EMA, Flops, IdentityMirror, Provenance, space
from namm.cli.lightning import main
from namm.training.io import KeepLast
from problems import (
    Affine,
    Recorder,
    Spawned,
    gaussian,
    make_trainer,
    processes,
    recorded,
    tiny_data,
    tiny_denoiser,
    tiny_mirror,
)

SCHEDULES = (VPSchedule(), CosineSchedule(), FlowSchedule())
KEYS = {
    *("task", "method", "protocol", "metric", "value", "ci95"),
    *("n", "seed", "calls", "vjps", "flops", "seconds"),
}


def named(value: Any) -> str:
    return type(value).__name__


# schedules


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_signal_falls_and_noise_rises(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha, sigma = schedule(t)

    assert alpha[0] == 1 and sigma[0] == 0 and alpha[-1] < 0.02 and sigma[-1] > 0.99
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    if not isinstance(schedule, FlowSchedule):
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-15)
    else:
        torch.testing.assert_close(alpha + sigma, torch.ones_like(t), rtol=0, atol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_schedule_is_precise_at_early_times(schedule: Schedule) -> None:
    t = torch.logspace(-6, -2, 9, dtype=torch.float64)
    for exact, single in zip(schedule(t), schedule(t.float()), strict=True):
        torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)


def test_schedule_is_that_of_the_discrete_chain() -> None:
    kept = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
    alpha, sigma = VPSchedule()(torch.arange(1, 1001, dtype=torch.float64) / 1000)

    assert np.abs(alpha.numpy() - np.sqrt(kept)).max() <= 1e-3
    assert np.abs(sigma.numpy() ** 2 - (1 - kept)).max() <= 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_time_of_a_ratio(schedule: Schedule) -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    alpha, sigma = schedule(t)
    ratio = alpha.log() - sigma.log()

    torch.testing.assert_close(schedule.invert(ratio), t, rtol=0, atol=1e-10)
    beyond = torch.tensor([50.0, -50.0], dtype=torch.float64)
    assert schedule.invert(beyond, 2e-3).tolist() == pytest.approx([2e-3, 1])


# transitions


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_step_is_the_posterior_of_the_forward_process(schedule: Schedule) -> None:
    """Against the conditional of the joint Gaussian of (y_s, y_t) given y."""

    times = DDIM(steps=10).times(VPSchedule())
    assert times.dtype == torch.float64 and times.tolist() == pytest.approx(np.linspace(1, 0, 11))
    for t, s in zip(times[:-1], times[1:], strict=True):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        covariance = alpha_t / alpha_s * sigma_s**2  # of y_s and y_t
        c2 = covariance / sigma_t**2
        c1 = alpha_s - c2 * alpha_t
        variance = sigma_s**2 - c2 * covariance
        step = DDIM(eta=1).step(schedule, t, s)

        assert float(step.c1) == pytest.approx(float(c1), abs=1e-12)
        assert float(step.c2) == pytest.approx(float(c2), abs=1e-12)
        assert float(step.std) ** 2 == pytest.approx(float(variance), abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_step_keeps_the_marginals(schedule: Schedule, eta: float) -> None:
    times = DDIM(steps=7).times(VPSchedule())
    for t, s in zip(times[:-1], times[1:], strict=True):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        c1, c2, std = (float(c) for c in DDIM(eta=eta).step(schedule, t, s))

        assert c1 + c2 * float(alpha_t) == pytest.approx(float(alpha_s), abs=1e-12)
        spread = (c2 * float(sigma_t)) ** 2 + std**2
        assert spread == pytest.approx(float(sigma_s) ** 2, abs=1e-12)
    # the last step ends on the denoised field
    assert (c1, c2, std) == (1, 0, 0)


def test_published_chain_has_its_coefficients() -> None:
    chain = Ancestral()
    times = chain.times(VPSchedule())
    assert len(times) == 1001 and times[0] == 1 and times[-1] == 0
    assert float(times[-2]) == pytest.approx(1e-3)

    b = np.linspace(1e-4, 2e-2, 1000)
    kept = np.cumprod(1 - b)
    before = np.concatenate([[1.0], kept[:-1]])
    for i, (t, s) in zip(range(999, -1, -1), zip(times[:-1], times[1:], strict=True), strict=True):
        assert math.floor(999 * float(t)) == i
        step = [float(c) for c in chain.step(VPSchedule(), t, s)]
        variance = b[i] if i else b[1] * (1 - kept[0]) / (1 - kept[1])
        c1 = b[i] * math.sqrt(before[i]) / (1 - kept[i])
        c2 = (1 - before[i]) * math.sqrt(1 - b[i]) / (1 - kept[i])

        assert step == pytest.approx([c1, c2, math.sqrt(variance)], rel=1e-9, abs=1e-12)
        # a field without noise goes to one without noise
        assert c1 + c2 * math.sqrt(kept[i]) == pytest.approx(math.sqrt(before[i]))
    assert step[2] == pytest.approx(0.0074, abs=5e-5)
    assert step[:2] == pytest.approx([1, 0], abs=1e-12)


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
    sampler(denoiser, (1, 1, 4), [0, 1])

    assert (denoiser.calls, denoiser.vjps) == (calls, 0)
    denoiser.reset_cost()
    y_t = torch.randn(2, 1, 1, 4, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.5)
    torch.autograd.grad(denoiser(y_t, t).sum() + denoiser(y_t, t).square().sum(), y_t)
    denoiser(y_t, t)
    assert (denoiser.calls, denoiser.vjps) == (3, 2)


def unet() -> DiffusersDenoiser:
    torch.manual_seed(0)
    net = UNet2DModel(
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    denoiser = DiffusersDenoiser(net, patch=2).eval()
    denoiser.calibrate(0.5 + 0.3 * torch.randn(64, 1, 8, 8))
    return denoiser


@pytest.mark.parametrize("sampler", [DPMSolver(6), ChainSampler(DDIM(6))], ids=named)
def test_sample_is_the_same_alone_and_in_a_batch(sampler: Sampler) -> None:
    denoiser = unet()
    together = sampler(denoiser, (1, 8, 8), range(100, 116)).y
    for i in (0, 5, 15):
        alone = sampler(denoiser, (1, 8, 8), [100 + i]).y
        assert (alone[0] - together[i]).abs().max() <= 1e-5 * together[i].abs().max()
    assert not torch.isclose(together[0], together[1]).all()


# denoisers


class Recall(nn.Module):
    """A network that remembers what it was called with, and returns a multiple of it."""

    def __init__(self, gain: float = 0.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.z, self.t = z, t
        return self.gain * z


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_silent_network_is_the_best_linear_estimate(schedule: Schedule) -> None:
    denoiser = DiffusersDenoiser(Recall(), schedule).double()
    denoiser.mean.fill_(0.7)
    denoiser.std.fill_(0.3)
    exact = GaussianDenoiser(0.09 * torch.eye(4, dtype=torch.float64), 0.7, schedule)
    y_t = torch.randn(6, 1, 3, 4, dtype=torch.float64)
    t = torch.tensor([1e-3, 0.01, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)

    torch.testing.assert_close(denoiser(y_t, t), exact(y_t, t), rtol=0, atol=1e-12)
    # and the loss weighs its error to 1 at all times
    alpha, sigma = schedule(t)
    error = 0.09 * sigma**2 / (alpha**2 * 0.09 + sigma**2)
    torch.testing.assert_close(denoiser.weight(t) * error, torch.ones_like(t))


def test_network_sees_and_predicts_fields_of_unit_variance() -> None:
    silent, unit = DiffusersDenoiser(Recall(0.0)), DiffusersDenoiser(Recall(1.0))
    y = 0.7 + 0.3 * noise([(0, i) for i in range(64)], (1, 8, 8))
    for denoiser in (silent, unit):
        denoiser.calibrate(y)
    assert float(unit.mean) == pytest.approx(0.7, abs=0.03)
    assert float(unit.std) == pytest.approx(0.3, abs=0.03)
    for t in torch.tensor([1e-3, 0.1, 0.5, 1.0]):
        alpha, sigma = unit.schedule(t)
        y_t = alpha * y + sigma * noise([(1, i) for i in range(64)], (1, 8, 8))
        base = silent(y_t, t)
        gain = ((unit(y_t, t) - base) / unit.net.z).median()
        target = (y - base) / gain  # what the network would have to return

        # 4096 numbers: a mean is known to 1.6 %, a std to 1.1 %
        assert abs(float(unit.net.z.mean())) < 0.08
        assert float(unit.net.z.std()) == pytest.approx(1, abs=0.055)
        assert float(target.std()) == pytest.approx(1, abs=0.055)


@pytest.mark.parametrize(("t", "seen"), [(1.0, 999), (0.5, 499), (1e-3, 0), (1e-4, 0)])
def test_network_sees_the_time_of_the_discrete_chain(t: float, seen: float) -> None:
    net = Recall()
    DiffusersDenoiser(net)(torch.zeros(2, 1, 4, 4), torch.tensor(t))

    assert net.t.tolist() == pytest.approx([seen] * 2, abs=1e-3)


def test_patches_are_folded_and_unfolded() -> None:
    y_t, t = torch.randn(2, 3, 8, 12), torch.tensor([0.2, 0.7])
    net = Recall(gain=0.5)
    whole = DiffusersDenoiser(Recall(gain=0.5))(y_t, t)
    folded = DiffusersDenoiser(net, patch=2)(y_t, t)

    assert net.z.shape == (2, 12, 4, 6)
    assert torch.equal(folded, whole)


def test_shift_by_patch_and_stride_passes_through() -> None:
    denoiser = unet()  # patches of 2, of which the network halves the grid once
    y_t, t = torch.randn(2, 1, 16, 8), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        shifted, out = denoiser(y_t.roll(4, -2), t), denoiser(y_t, t).roll(4, -2)

    assert float((shifted - out).norm() / out.norm()) <= 1e-5


def test_time_is_one_for_all_or_one_for_each() -> None:
    denoiser, y_t = tiny_denoiser(), torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        one = denoiser(y_t, torch.tensor(0.3))
        each = denoiser(y_t, torch.full((3,), 0.3))

    assert torch.equal(one, each)


def test_bfloat16_is_for_training_alone() -> None:
    low, full = tiny_denoiser(bfloat16=True), tiny_denoiser()
    y_t, t = torch.randn(3, 1, 8, 8), torch.tensor(0.3)
    with torch.no_grad():
        trained = low.train()(y_t, t)
        assert trained.dtype == torch.float32 and not torch.equal(trained, full(y_t, t))
        torch.testing.assert_close(trained, full(y_t, t), rtol=0, atol=0.02)
        assert torch.equal(low.eval()(y_t, t), full(y_t, t))


# the stage


def tiny_mdm(**options: Any) -> MDM:
    options = {
        "denoiser": tiny_denoiser(),
        "constraint": Burgers(),
        "sampler": DPMSolver(3),
        "val_samples": 5,
        "batch_samples": 2,
        "lr": 1e-2,
        **options,
    }
    return MDM(**options)


def test_chain_that_needs_a_first_guess_draws_no_samples() -> None:
    with pytest.raises(ValueError, match="from noise alone, got .* starts at 0.4"):
        ChainSampler(DDIM(start=0.4))


@pytest.mark.parametrize("name", ["val_samples", "batch_samples"])
def test_no_samples_at_all_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1 sample.*leave the constraint out"):
        tiny_mdm(**{name: 0})


def batch_of(n: int) -> dict[str, Tensor]:
    return {"x": noise([("x", i) for i in range(n)], (1, 8, 8)), "index": torch.arange(n)}


def test_loss_is_that_of_mirror_fields() -> None:
    class Seen(DiffusersDenoiser):
        def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
            self.y_t, self.t = y_t, t
            self.y_hat = super().denoise(y_t, t)
            return self.y_hat

    denoiser, mirror, batch = Seen(Recall(0.3)), Affine(2.0, 1.0), batch_of(256)
    y = mirror(batch["x"])
    denoiser.calibrate(y)
    stage = MDM(denoiser, mirror, t_min=0.01)
    losses = stage.losses(batch, "train", 0)
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in denoiser.schedule(denoiser.t))
    eps = (denoiser.y_t - alpha * y) / sigma
    error = (denoiser.y_hat - y).square().mean(dim=(1, 2, 3))

    torch.testing.assert_close(losses["loss"], (denoiser.weight(denoiser.t) * error).mean())
    # 16384 numbers: 5 standard errors
    assert float(eps.std()) == pytest.approx(1, abs=5 / 181)
    assert abs(float(eps.mean())) < 5 / 128
    assert 0.01 <= denoiser.t.min() < 0.03 and 0.97 < denoiser.t.max() < 1
    assert float(denoiser.t.mean()) == pytest.approx(0.505, abs=5 * 0.286 / 16)


def test_log_normal_noise_levels() -> None:
    denoiser, batch = tiny_denoiser(), batch_of(1024)
    denoiser.std.fill_(0.3)
    stage = tiny_mdm(denoiser=denoiser, log_normal=(-0.5, 1.2))
    t = stage._times(batch, "train", 0).double()
    alpha, sigma = denoiser.schedule(t)
    level = (sigma / (0.3 * alpha)).log()

    # the ends of time cut less than a thousandth of the levels
    assert float(level.mean()) == pytest.approx(-0.5, abs=5 * 1.2 / 32)
    assert float(level.std()) == pytest.approx(1.2, abs=5 * 1.2 / 45)


def test_plain_model_is_that_of_the_identity_mirror() -> None:
    batch = batch_of(4)
    plain, identity = tiny_mdm(), tiny_mdm(mirror=IdentityMirror())

    assert torch.equal(plain.losses(batch, 0)["loss"], identity.losses(batch, 0)["loss"])
    assert not torch.equal(plain.losses(batch, 0)["loss"], plain.losses(batch, 1)["loss"])


def test_model_trains_in_mirror_space(tmp_path: Path) -> None:
    mirror = tiny_mirror()
    with torch.no_grad():
        mirror.forward_map.out.weight.fill_(0.2)
    before = {k: v.clone() for k, v in mirror.state_dict().items()}
    stage = tiny_mdm(mirror=mirror, seed=3)
    start = {k: v.clone() for k, v in stage.denoiser.state_dict().items()}
    data = tiny_data(tmp_path)
    trainer = make_trainer(tmp_path, [EMA(), Flops(), Provenance(), KeepLast(1)], max_steps=3)
    trainer.fit(stage, data)
    logged = trainer.callback_metrics

    assert all(torch.equal(v, before[k]) for k, v in stage.mirror.state_dict().items())
    end = stage.denoiser.state_dict()
    assert all(not torch.equal(end[k], start[k]) for k in end)  # mean and std included
    fields = torch.stack([data.fields["train"][i]["x"] for i in range(12)])
    with torch.no_grad():
        y = mirror(fields)
    torch.testing.assert_close(end["mean"], y.mean())
    torch.testing.assert_close(end["std"], y.std())
    assert float(logged["val/data_floor"]) <= 1e-6 and torch.isfinite(logged["val/loss"])
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {"denoiser.mean", "denoiser.std"} <= set(state["state_dict"])
    assert not {"denoiser", "mirror", "sampler"} & set(state["hyper_parameters"])


def test_validation_draws_samples_from_the_average(tmp_path: Path) -> None:
    mirror = tiny_mirror()
    stage = tiny_mdm(mirror=mirror, seed=3, lr=0.1)
    trainer = make_trainer(tmp_path, [EMA(0.9), KeepLast(1)], max_steps=3)
    trainer.fit(stage, tiny_data(tmp_path))
    seeds = [derive_seed(3, "val", i) for i in range(5)]

    def distance() -> float:
        with torch.no_grad():
            x = mirror.inverse(DPMSolver(3)(stage.denoiser, (1, 8, 8), seeds).y)
            return float(Burgers()(x).mean())

    average = distance()
    raw = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    stage.load_state_dict(raw["current_model_state"])
    assert average != pytest.approx(distance(), rel=1e-3)
    assert float(trainer.callback_metrics["val/samples"]) == pytest.approx(average, rel=1e-4)


def test_same_seed_same_weights(tmp_path: Path) -> None:
    ends = []
    for seed, anything in ((0, 1), (0, 2), (1, 1)):
        stage = tiny_mdm(seed=seed)
        torch.manual_seed(anything)
        make_trainer(tmp_path).fit(stage, tiny_data(tmp_path))
        ends.append(torch.cat([v.flatten() for v in stage.denoiser.state_dict().values()]))

    assert torch.equal(ends[0], ends[1])
    assert (ends[0] - ends[2]).abs().max() > 1e-4


def test_mirror_stays_in_evaluation_mode() -> None:
    stage = tiny_mdm(mirror=tiny_mirror()).train()

    assert stage.denoiser.training and not stage.mirror.training
    assert not any(w.requires_grad for w in stage.mirror.parameters())


def test_denoiser_of_a_command_is_loaded(tmp_path: Path) -> None:
    net = {"in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    net |= {"block_out_channels": [8], "down_block_types": ["DownBlock2D"]}
    net |= {"up_block_types": ["UpBlock2D"], "add_attention": False}
    constraint = {"class_path": "constraints.Burgers"}
    denoiser = {"net": {"class_path": "diffusers.UNet2DModel", "init_args": net}}
    denoiser |= {"schedule": {"class_path": "mdm.CosineSchedule", "init_args": {"end": 0.95}}}
    config = {
        "model": {
            "class_path": "mdm.MDM",
            "init_args": {
                "denoiser": {"class_path": "mdm.DiffusersDenoiser", "init_args": denoiser},
                "constraint": constraint,
                "sampler": {"class_path": "mdm.DPMSolver", "init_args": {"steps": 3}},
                "val_samples": 2,
            },
        },
        "data": {
            "class_path": "datamodules.BurgersData",
            "init_args": {
                "constraint": constraint,
                "file": str(tmp_path / "fields.h5"),
                "sizes": {"train": 8, "val": 4},
                "points": 8,
                "frames": 8,
                "batch_size": 4,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 2,
            "logger": False,
            "default_root_dir": str(tmp_path),
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "-c", str(tmp_path / "config.yaml")])
    path = tmp_path / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    loaded = load_denoiser(str(path))

    assert type(loaded) is DiffusersDenoiser and type(loaded.net) is UNet2DModel
    assert type(loaded.schedule) is CosineSchedule and loaded.schedule.end == 0.95
    assert float(loaded.std) == float(state["state_dict"]["denoiser.std"]) != 1
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state["state_dict"][f"denoiser.{name}"])
    raw = load_denoiser(str(path), "raw").state_dict()
    assert not torch.equal(raw["net.conv_in.weight"], loaded.net.conv_in.weight)
    assert not loaded.training and loaded.provenance["shape"] == [1, 8, 8]


# predictions


def predict(folder: Path, name: str, batch_size: int, **options: Any) -> dict[str, np.ndarray]:
    stage = tiny_mdm(seed=7)
    stage.denoiser.std.fill_(0.3)
    writer = SampleWriter(str(folder / "out" / name))
    trainer = make_trainer(folder, [writer], **options.pop("trainer", {}))
    data = tiny_data(folder, batch_size=batch_size, **options)
    trainer.predict(stage, data, return_predictions=False)
    with h5py.File(folder / "out" / name) as file:
        assert dict(file.attrs) == {"schema": "namm-mirror/1", "space": space(stage.mirror)}
        return {split: file[f"{split}/y"][:] for split in file}


def test_row_of_a_prediction_belongs_to_its_field(tmp_path: Path) -> None:
    found = predict(tmp_path, "a.h5", batch_size=5)
    denoiser = tiny_denoiser()
    denoiser.std.fill_(0.3)

    assert found["train"].shape == (12, 1, 8, 8) and found["val"].shape == (4, 1, 8, 8)
    assert found["train"].dtype == np.float32
    for number, split in enumerate(("train", "val")):
        for i in (0, 3):
            seed = derive_seed(7, "predict", number, i)
            y = DPMSolver(3)(denoiser, (1, 8, 8), [seed]).y[0]
            np.testing.assert_allclose(found[split][i], y, rtol=0, atol=1e-5)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.h5"]


def test_predictions_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    a = predict(tmp_path, "a.h5", batch_size=5)
    b = predict(tmp_path, "b.h5", batch_size=2, predict_sizes={"train": 7})

    assert b["train"].shape[0] == 7
    np.testing.assert_allclose(a["train"][:7], b["train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(a["val"], b["val"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_write_the_rows_of_one(tmp_path: Path) -> None:
    one = predict(tmp_path, "one.h5", batch_size=5)
    with processes():
        two = {"devices": 2, "strategy": Spawned()}
        both = predict(tmp_path, "two.h5", batch_size=2, predict_sizes={"val": 3}, trainer=two)

    np.testing.assert_allclose(one["train"], both["train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(one["val"][:3], both["val"], rtol=0, atol=1e-5)


# generation


def generate(folder: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The rows of the results of a generation, and its samples by seed."""

    inner = options.pop("sampler", DPMSolver(3))
    trainer_options = options.pop("trainer", {})
    sampler = Recorder(inner, folder / "samples")
    options = {"samples": 6, "batch_samples": 4, "seed": 5, **options}
    denoiser = options.pop("denoiser", None) or tiny_denoiser()
    stage = Generation(denoiser, Burgers(), sampler=sampler, **options)
    data = tiny_data(folder.parent)
    make_trainer(folder, **trainer_options).test(stage, data, verbose=False)
    return json.loads((folder / "results.json").read_text())["rows"], recorded(folder / "samples")


def pick(found: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in found if all(row[k] == v for k, v in wanted.items())]


def test_generation_scores_what_it_drew(tmp_path: Path) -> None:
    found, samples = generate(tmp_path / "run", mirror=Affine(2.0, 1.0, 0.5), method="MDM")
    seeds = [derive_seed(5, "test", i) for i in range(6)]
    assert set(samples) == {str(seed) for seed in seeds}
    x = 0.5 * torch.stack([samples[str(seed)][1] for seed in seeds])
    distance = Burgers()(x)

    assert all(set(row) == KEYS for row in found)
    assert {row["protocol"] for row in found} == {"clean"}
    metrics = [row["metric"] for row in pick(found, method="MDM")]
    assert sorted(metrics) == ["cycle", "distance", "mmd", "spectrum", "spread"]
    (row,) = pick(found, method="MDM", metric="distance")
    assert row["value"] == pytest.approx(float(distance.mean()), rel=1e-5)
    half = 1.96 * float(distance.std()) / math.sqrt(6)
    assert row["ci95"] == pytest.approx([row["value"] - half, row["value"] + half], rel=1e-4)
    assert (row["n"], row["seed"], row["calls"], row["vjps"]) == (6, 5, 3, 0)
    assert row["task"] == "generation" and row["seconds"] > 0 and row["flops"] > 0
    (row,) = pick(found, metric="cycle")
    assert row["value"] == pytest.approx(0.5)  # f(g(x)) = x + 0.5
    (row,) = pick(found, method="data")
    assert row["metric"] == "distance" and 0 < row["value"] <= 1e-6 and row["n"] == 6


def test_generation_does_not_depend_on_its_batches(tmp_path: Path) -> None:
    a, one = generate(tmp_path / "a", batch_samples=6)
    b, other = generate(tmp_path / "b", batch_samples=1)

    assert one.keys() == other.keys()
    for seed in one:
        torch.testing.assert_close(one[seed], other[seed], rtol=0, atol=1e-5)
    for x, y in zip(a, b, strict=True):
        assert x["value"] == pytest.approx(y["value"], rel=1e-3, abs=1e-5)
        # the cost of a sample is that of one sample
        assert (x["calls"], x["flops"]) == (y["calls"], y["flops"])


def test_restorer_acts_on_the_fields_at_the_end(tmp_path: Path) -> None:
    mirror = Affine(2.0, 1.0, 0.25)
    found, samples = generate(tmp_path / "run", restorer=mirror)
    x = torch.stack([pair[1] for pair in samples.values()])

    (row,) = pick(found, method="dm", metric="distance")
    restored = Burgers()(0.5 * x + 0.25)
    assert row["value"] == pytest.approx(float(restored.mean()), rel=1e-5)
    (row,) = pick(found, metric="cycle")  # the guard of the restorer
    assert row["value"] > 0.05


def test_published_chain_scores_both_of_its_ends(tmp_path: Path) -> None:
    found, samples = generate(tmp_path / "run", sampler=ChainSampler(Ancestral()), samples=4)
    y, mean = torch.stack(list(samples.values())).unbind(dim=1)

    for protocol, end in (("published", y), ("clean", mean)):
        (row,) = pick(found, method="dm", metric="distance", protocol=protocol)
        assert row["value"] == pytest.approx(float(Burgers()(end).mean()), rel=1e-4)
        assert (row["calls"], row["n"]) == (1000, 4)
        assert len(pick(found, method="dm", protocol=protocol)) == 5
    assert float((y - mean).std()) == pytest.approx(0.0074, rel=0.2)


class Largest(Constraint):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).amax(dim=1)


def test_second_test_starts_afresh(tmp_path: Path) -> None:
    stage = Generation(tiny_denoiser(), Burgers(), sampler=DPMSolver(2), samples=4)
    rows = []
    for _ in range(2):
        make_trainer(tmp_path).test(stage, tiny_data(tmp_path), verbose=False)
        rows.append(json.loads((tmp_path / "results.json").read_text())["rows"])

    one, other = ([{**row, "seconds": 0} for row in found] for found in rows)
    assert one == other


@pytest.mark.parametrize("constraint", [Largest(), Sum([Largest()])], ids=["one", "sum"])
def test_constraint_without_residual_can_be_evaluated(
    tmp_path: Path, constraint: Constraint
) -> None:
    stage = Generation(tiny_denoiser(), constraint, sampler=DPMSolver(2), samples=3)
    make_trainer(tmp_path).test(stage, tiny_data(tmp_path), verbose=False)

    assert (tmp_path / "results.json").exists() and (tmp_path / "fields.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_draw_the_samples_of_one(tmp_path: Path) -> None:
    _, one = generate(tmp_path / "one", samples=5)
    two = {"devices": 2, "strategy": Spawned()}
    with processes():
        found, both = generate(tmp_path / "two", samples=5, trainer=two)

    assert one.keys() == both.keys() and len(one) == 5
    for seed in one:
        torch.testing.assert_close(one[seed], both[seed], rtol=0, atol=1e-5)
    (row,) = pick(found, method="dm", metric="distance")
    x = torch.stack([pair[1] for pair in one.values()])
    assert row["value"] == pytest.approx(float(Burgers()(x).mean()), rel=1e-5)
    assert (row["n"], row["calls"]) == (5, 3)
    (row,) = pick(found, method="data")
    assert row["n"] == 6
