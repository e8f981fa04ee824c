"""Memory that stays flat: in a long prediction, in a long solve, and in the comparison of sets."""

from pathlib import Path
from typing import Any

import h5py
import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mdm import MDM, DPMSolver, GaussianDenoiser, SampleWriter
from namm import MMD, IdentityMirror
from tests.memory import Peak, alone
from tests.problems import make_trainer


class Positions(Dataset):
    """The positions of fields of 64 x 64 points, which a prediction needs, without values."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": torch.zeros(1, 1, 1).expand(1, 64, 64), "index": i}


class FromSecond(L.Callback):
    """Measures from the end of the second batch on."""

    peak: Peak

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.predict_loop.batch_progress.total.processed == 2:
            self.peak = Peak()


def predict(file: Path) -> float:
    points = torch.arange(64)
    cov = 0.8 ** (points[:, None] - points).abs()
    stage = MDM(GaussianDenoiser(cov), IdentityMirror(), sampler=DPMSolver(2))
    loaders = [DataLoader(Positions(n), batch_size=256) for n in (20_000, 512)]
    callbacks = [SampleWriter(str(file)), watch := FromSecond()]
    make_trainer(file.parent, callbacks).predict(stage, loaders, return_predictions=False)
    return watch.peak.growth()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_of_a_prediction_is_flat(tmp_path: Path) -> None:
    growth = alone(predict, tmp_path / "samples.h5")

    assert 0 < growth <= 50
    with h5py.File(tmp_path / "samples.h5") as file:
        assert file["train/y"].shape == (20_000, 1, 64, 64) and file["val/y"].shape[0] == 512
        assert file["train/y"][-1].std() > 0.5


def compare(n: int) -> float:
    metric = MMD()
    for real in (True, False):
        metric.update(torch.randn(n, 1, 256), real=real)
    peak = Peak()
    assert metric.compute()["mean"].abs() < 0.01
    return peak.growth()


@pytest.mark.slow
def test_memory_of_the_discrepancy_is_linear() -> None:
    few, many = alone(compare, 2000), alone(compare, 8000)

    # the matrix of all pairs takes 122 MiB for the few and 1950 MiB for the many, several times
    assert 0 < many < few + 100 and many < 300
