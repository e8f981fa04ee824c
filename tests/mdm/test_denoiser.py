"""Denoisers: what the network sees and predicts, and its shifts, patches and precision."""

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import UNet2DModel

from constraints import InputError, noise
from mdm import CosineSchedule, DiffusersDenoiser, GaussianDenoiser, Schedule, load_denoiser
from namm.cli.lightning import main
from tests.mdm.small import SCHEDULES, Recall, named, unet
from tests.problems import tiny_denoiser


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
    (tmp_path / "mdm.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "-c", str(tmp_path / "mdm.yaml")])
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


@pytest.mark.parametrize("value", [3.0, float("nan")])
def test_fields_that_do_not_differ_have_no_scale(value: float) -> None:
    with pytest.raises(InputError, match="must differ"):
        tiny_denoiser().calibrate(torch.full((4, 1, 8, 8), value))
