"""Fine-tuning: the inverse map moves alone, on samples of its own mirror space."""

from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

from constraints import Distance, Given, InputError, noise
from namm import EMA, ICNN, IdentityMirror, MirrorMap, PatchNet, Provenance, ResNet, space
from namm.training.io import KeepLast
from tests.namm.stages import fit, last, same, tiny_stage, weights
from tests.namm.stages import trained as trained  # a fixture
from tests.problems import AXES, tiny_data, tiny_mirror


# fine-tuning
def mirror_samples(folder: Path) -> str:
    with h5py.File(folder / "samples.h5", "w") as file:
        for split, n in (("train", 5), ("val", 3)):
            file[f"{split}/y"] = noise([(split, i) for i in range(n)], (1, 8, 8)).numpy()
    return str(folder / "samples.h5")


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # the frozen map
@pytest.mark.parametrize("average", [True, False])
def test_fine_tuning_moves_the_inverse_map_alone(
    trained: Path, tmp_path: Path, average: bool
) -> None:
    data = tiny_data(tmp_path, mirror_samples=mirror_samples(tmp_path))
    stage = tiny_stage(init_from=str(last(trained)), freeze_forward=True)
    start = weights(stage)
    stored = torch.load(last(trained), weights_only=True)["state_dict"]
    assert same(start, {name: stored[name] for name in start})
    fit(tmp_path, stage, *([EMA()] if average else []), KeepLast(1), data=data)

    end = weights(stage)
    for name in start:
        moved = not torch.equal(start[name], end[name])
        assert moved == ("inverse_map" in name), name
    raw = torch.load(last(tmp_path), weights_only=True)
    raw = raw.get("current_model_state", raw["state_dict"])
    forward = [name for name in start if "forward_map" in name]
    assert all(torch.equal(start[name], raw[name]) for name in forward)


def test_frozen_map_does_not_move_with_its_dropout() -> None:
    net = ResNet(width=4, blocks=1, channels=1, padding=AXES)
    other = PatchNet(patch=2, width=8, blocks=1, detail=4, channels=1, padding=AXES)
    stage = tiny_stage(MirrorMap(net, other), freeze_forward=True)
    x = torch.rand(2, 1, 8, 8)
    stage.train()
    assert torch.equal(stage.mirror(x), stage.mirror(x)) and other.training
    assert not torch.equal(net.train()(x), net(x))  # which shows that it has some


def test_fine_tuning_refuses_samples_of_other_maps(trained: Path, tmp_path: Path) -> None:
    stage = tiny_stage(init_from=str(last(trained)))
    samples = mirror_samples(tmp_path)
    data = tiny_data(tmp_path, mirror_samples=samples)
    for drawn in (space(tiny_mirror()), space(stage.mirror)):
        with h5py.File(samples, "r+") as file:
            file.attrs["space"] = drawn
        if drawn == space(stage.mirror):
            fit(tmp_path, stage, Provenance(), data=data)
        else:
            with pytest.raises(InputError, match=r"samples\.h5.*--force"):
                fit(tmp_path, stage, Provenance(), data=data)


class Target(Distance):
    """A constraint whose parameter is a buffer."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
        return (x - self.value).square().flatten(1).mean(dim=1)


def test_forced_training_goes_on_under_the_constraint_that_is_given(tmp_path: Path) -> None:
    data = tiny_data(tmp_path)
    fit(tmp_path, tiny_stage(constraint=Target(1.0)), EMA(), Provenance(), KeepLast(1), data=data)
    stage = tiny_stage(constraint=Target(2.0))
    options: dict[str, Any] = {"ckpt_path": last(tmp_path), "max_steps": 4, "data": data}
    fit(tmp_path, stage, EMA(), Provenance(force=True), KeepLast(1), **options)

    assert stage.constraint.value == 2
    state = torch.load(last(tmp_path), weights_only=True)
    for kept in ("state_dict", "current_model_state"):
        assert state[kept]["constraint.value"] == 2


def test_fine_tuning_refuses_samples_of_another_grid() -> None:
    batch = {"x": torch.rand(2, 1, 8, 8), "index": torch.arange(2), "y": torch.rand(2, 1, 16, 16)}
    with pytest.raises(InputError, match=r"\(1, 8, 8\).*\(1, 16, 16\)"):
        tiny_stage().losses(batch, "train", 0)


def test_only_a_learned_mirror_is_frozen() -> None:
    with pytest.raises(InputError, match="IdentityMirror"):
        tiny_stage(mirror=IdentityMirror(), freeze_forward=True)


def test_fine_tuning_sees_the_mirror_samples(tmp_path: Path) -> None:
    stage = tiny_stage(sigma_max=0.0 + 1e-9)
    batch = {"x": torch.rand(2, 1, 8, 8), "index": torch.arange(2)}
    y = 3 * torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        plain, tuned = stage.losses(batch, "train", 0), stage.losses({**batch, "y": y}, "train", 0)
        expected = stage.constraint(stage.mirror.inverse(y)).mean()

    torch.testing.assert_close(tuned["constraint"], expected, rtol=1e-4, atol=1e-7)
    assert torch.allclose(tuned["cycle_forward"], plain["cycle_forward"], rtol=1e-5)
    assert not torch.isclose(tuned["constraint"], plain["constraint"])


def test_maps_of_other_networks_are_refused(trained: Path) -> None:
    mirror = MirrorMap(
        ICNN(width=5, layers=1, channels=1, padding=AXES),
        PatchNet(patch=2, width=8, blocks=1, detail=4, channels=1, padding=AXES),
    )

    with pytest.raises(InputError, match=r"\.ckpt"):
        tiny_stage(mirror, init_from=str(last(trained)))
