"""The losses and the scores of one, two and three processes, with shares of different sizes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from constraints import Burgers, Constraint, Given, InputError
from datamodules.loaders import KeyedData, RankSampler
from inverse import DPS, Inverse, Select
from mdm import DDIM, DPMSolver, Generation
from tests.mdm.small import tiny_mdm
from tests.namm.stages import tiny_stage
from tests.problems import Affine, Spawned, make_trainer, processes, tiny_data, tiny_denoiser

COSTS = ("calls", "vjps", "flops", "n")
SIZES = {"train": 12, "val": 15, "test": 15}


class Level(Constraint):
    """A field is everywhere at the level that its data tell."""

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        assert given is not None
        return x - given["level"].reshape(-1, 1, 1, 1)


class Levels(KeyedData):
    """Fifteen fields, each with a level of its own."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(0, batch_size, 0)

    def test_dataloader(self) -> DataLoader:
        x = torch.randn(15, 1, 8, 8, generator=torch.Generator().manual_seed(2))
        level = torch.arange(15.0)
        return self.in_order(
            [{"x": x[i], "index": i, "given": {"level": level[i]}} for i in range(15)]  # type: ignore[arg-type]
        )

    val_dataloader = test_dataloader


def generation(constraint: Constraint, **options: Any) -> Generation:
    options = {"samples": 23, "batch_samples": 4, "sampler": DPMSolver(3), **options}
    return Generation(tiny_denoiser(), constraint, **options)


def inverse() -> Inverse:
    solver = DPS(0.05, transition=DDIM(6))
    mirror = Affine(2.0, 1.0, 0.5)
    return Inverse(
        tiny_denoiser(), Burgers(), Select(-1, 3, 8, 0.2), solver, mirror, fields=11, samples=2
    )


VALIDATED: dict[str, Callable[[], L.LightningModule]] = {
    "namm": tiny_stage,
    "mdm": lambda: tiny_mdm(val_samples=23),
    "mdm with given": lambda: tiny_mdm(constraint=Level(), val_samples=23),
}
TESTED: dict[str, Callable[[], L.LightningModule]] = {
    "generation": lambda: generation(Burgers(), mirror=Affine(2.0, 1.0, 0.5)),
    "generation with given": lambda: generation(Level()),
    "inverse": inverse,
}


def data(folder: Path, name: str, batch_size: int) -> Any:
    if "given" in name:
        return Levels(batch_size)
    return tiny_data(folder, sizes=SIZES, batch_size=batch_size)


def trainer(folder: Path, devices: int) -> L.Trainer:
    strategy = {"devices": devices, "strategy": Spawned()} if devices > 1 else {}
    return make_trainer(folder, **strategy)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", VALIDATED)
def test_validation_is_the_same_on_one_two_and_three_processes(tmp_path: Path, name: str) -> None:
    def validate(devices: int) -> dict[str, float]:
        with processes():
            stage, fields = VALIDATED[name](), data(tmp_path, name, 4)
            (found,) = trainer(tmp_path / str(devices), devices).validate(
                stage, fields, verbose=False
            )
        return dict(found)

    one = validate(1)
    assert "val/loss" in one and all(value != 0 for value in one.values())
    for devices in (2, 3):
        assert validate(devices) == pytest.approx(one, rel=1e-6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TESTED)
def test_results_are_the_same_on_one_two_and_three_processes(tmp_path: Path, name: str) -> None:
    def rows(devices: int) -> list[dict[str, Any]]:
        folder = tmp_path / str(devices)
        with processes():
            stage, fields = TESTED[name](), data(tmp_path, name, 4)
            trainer(folder, devices).test(stage, fields, verbose=False)
        found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["rows"]
        return found

    one = rows(1)
    assert len(one) >= 6
    for devices in (2, 3):
        for a, b in zip(one, rows(devices), strict=True):
            what = (a["metric"], devices)
            assert a["metric"] == b["metric"] and a["protocol"] == b["protocol"]
            numbers = (a["value"], *a["ci95"]), (b["value"], *b["ci95"])
            assert numbers[1] == pytest.approx(numbers[0], rel=1e-6, abs=1e-6), what
            assert [a[key] for key in COSTS] == [b[key] for key in COSTS], what


def test_more_processes_than_fields_are_refused(tmp_path: Path) -> None:
    assert list(RankSampler(range(3), 2, 3)) == [2]
    with pytest.raises(InputError, match=r"\b4 processes.*\b3\b"):
        RankSampler(range(3), 0, 4)
