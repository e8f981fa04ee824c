"""A network for points: what it learns, what it refuses, and its training by a command."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from constraints import noise
from mdm import (
    MLP,
    CosineSchedule,
    DiffusersDenoiser,
    DPMSolver,
    FlowSchedule,
    Schedule,
    VPSchedule,
    load_denoiser,
)
from namm.cli.main import main
from tests.problems import randomise


def paths(n: int, *shape: int) -> Tensor:
    return noise([("path", i) for i in range(n)], shape or (2, 6, 1)).double()


def test_network_takes_a_trajectory_for_a_point() -> None:
    net, x, t = MLP(12, width=8, layers=1), paths(3).float(), torch.full((3,), 500.0)

    assert torch.equal(net(x, t), net(x.reshape(3, 12, 1, 1), t).reshape(3, 2, 6, 1))
    with pytest.raises(ValueError, match=r"\b12\b.*\(3, 2, 5, 1\)"):
        net(x[:, :, 1:], t)


ROOT = Path(__file__).resolve().parents[2]


def points(*coordinates: tuple[float, float]) -> Tensor:
    return torch.tensor(coordinates, dtype=torch.float64)[:, :, None, None]


# the network
def network() -> DiffusersDenoiser:
    net = randomise(MLP(channels=2, width=16, layers=2), 0.3)
    assert isinstance(net, nn.Module)
    return DiffusersDenoiser(net).eval()


def test_network_is_that_of_a_denoiser() -> None:
    denoiser = network()
    y_t = noise([(0, i) for i in range(6)], (2, 1, 1))
    t = torch.tensor([1e-3, 0.01, 0.1, 0.4, 0.9, 1.0])
    together = denoiser(y_t, t)

    assert together.shape == (6, 2, 1, 1)
    for i in range(6):
        alone = denoiser(y_t[i : i + 1], t[i])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    # it sees the time
    out = denoiser.net(y_t[:1].expand(6, -1, -1, -1), 1000 * t - 1)
    assert (out[1:] - out[:-1]).abs().flatten(1).amax(dim=1).min() > 1e-3
    assert denoiser.double()(y_t.double(), t).dtype == torch.float64


def test_network_refuses_fields_that_are_no_points() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2, 4, 4\)"):
        MLP()(torch.zeros(3, 2, 4, 4), torch.zeros(3))


@pytest.mark.parametrize(
    "schedule", [VPSchedule(), CosineSchedule(), FlowSchedule()], ids=lambda s: type(s).__name__
)
def test_network_learns_two_points(schedule: Schedule) -> None:
    """The diffusion model of two points: every sample must be one of them."""

    torch.manual_seed(0)
    denoiser = DiffusersDenoiser(MLP(width=32, layers=1), schedule)
    y = points((1, 0.5), (-1, -0.5)).float().repeat(128, 1, 1, 1)
    denoiser.calibrate(y)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    for step in range(200):
        z = noise([(step, i) for i in range(2)], (256, 2, 1, 1))
        ratio = 0.5 - 1.2 * z[0, :, 0, 0, 0] - denoiser.field_std.log()
        t = schedule.invert(ratio).float()
        alpha, sigma = (a[:, None, None, None] for a in schedule(t))
        error = (denoiser(alpha * y + sigma * z[1], t) - y).square().flatten(1).mean(dim=1)
        loss = (denoiser.weight(t) * error).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    samples = DPMSolver(20)(denoiser, (2, 1, 1), range(100)).y
    away = torch.cdist(samples.flatten(1), y[:2].flatten(1)).amin(dim=1)

    assert float(away.median()) < 0.1
    assert 20 <= int((samples[:, 0] > 0).sum()) <= 80


# the command line
@pytest.mark.parametrize("stage", ["diffusion", "flow"])
def test_model_is_trained_by_a_command(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ROOT / "configs" / "spiral.yaml"
    monkeypatch.chdir(tmp_path)
    small = {
        "data": {
            "class_path": "datamodules.SpiralData",
            "init_args": {"sizes": {"train": 64, "val": 16, "test": 16}, "batch_size": 32},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "val_check_interval": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "TensorBoardLogger", "init_args": {"name": "toy"}},
        },
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    argv = ["-c", f"{file}::{stage}", "-c", "small.yaml"]
    argv += ["--trainer.logger.init_args.version=fit"]
    assert main(["fit", *argv, "--model.init_args.val_samples=8"]) is None

    path = "runs/toy/fit/checkpoints/last.ckpt"
    denoiser = load_denoiser(path)
    assert type(denoiser.schedule) is (FlowSchedule if stage == "flow" else VPSchedule)
    assert isinstance(denoiser, DiffusersDenoiser) and type(denoiser.net) is MLP
    assert 0.5 < float(denoiser.std) < 1.5
    argv = ["-c", f"{file}::generation/{stage}", "-c", "small.yaml"]
    argv += ["--trainer.logger.init_args.version=generation/x"]
    argv += [f"--model.init_args.denoiser.init_args.checkpoint={path}"]
    assert main(["test", *argv, "--model.init_args.samples=8"]) is None
    assert (tmp_path / "runs/toy/generation/x/results.json").exists()
    assert main(["report", "runs/toy"]) is None
    assert (tmp_path / "runs/toy/report.png").exists()
