"""Memory that stays flat: in a long prediction, in a long solve, and in the comparison of sets."""

from pathlib import Path
from typing import Any

import h5py
import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from constraints import show_progress
from inverse import DPS, Select
from mdm import DDIM, MDM, DiffusersDenoiser, DPMSolver, GaussianDenoiser, SampleWriter
from namm import MMD, IdentityMirror
from tests.memory import Peak, alone
from tests.problems import AXES, Tiny, make_trainer


def hold() -> float:
    peak = Peak()
    kept = torch.ones(100 * 2**18)
    return peak.growth() * kept[0].item()


def test_measure_sees_memory_that_is_kept() -> None:
    assert 99 < alone(hold) < 110


class Positions(Dataset):
    """The positions of fields of 64 x 64 points, which a prediction needs, without values."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": torch.zeros(1, 1, 1).expand(1, 64, 64), "index": i}


class FromSecond(L.Callback):
    """Measures from the peak of the second batch on."""

    peak: Peak

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        done = trainer.predict_loop.batch_progress.total.processed
        if done == 1:
            self.peak = Peak()
        elif done == 2:
            self.peak.start += self.peak.growth()


def predict(file: Path) -> float:
    points = torch.arange(64)
    cov = 0.8 ** (points[:, None] - points).abs()
    stage = MDM(GaussianDenoiser(cov), IdentityMirror(), sampler=DPMSolver(6))
    loaders = [DataLoader(Positions(n), batch_size=256) for n in (20_000, 512)]
    callbacks = [SampleWriter(str(file)), watch := FromSecond()]
    make_trainer(file.parent, callbacks).predict(stage, loaders, return_predictions=False)
    return watch.peak.growth()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_of_a_prediction_is_flat(tmp_path: Path) -> None:
    assert alone(predict, tmp_path / "samples.h5") <= 50  # the samples take 313 MiB
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


class FromHundredth(DiffusersDenoiser):
    """Measures from the hundredth call on."""

    calls = 0
    peak: Peak

    def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 100:
            self.peak = Peak()
        return super().denoise(y_t, t)


def solve(shown: bool) -> float:
    denoiser = FromHundredth(Tiny(width=8), padding=AXES)
    m = torch.zeros(16, 1, 32, 8)
    with show_progress(shown):
        result = DPS(0.1, transition=DDIM(1000))(
            denoiser, Select(-1, 8, 32), m, (1, 32, 32), range(16)
        )
    assert denoiser.calls == 1000 and result.y.isfinite().all()
    return denoiser.peak.growth()


@pytest.mark.slow
@pytest.mark.parametrize("shown", [False, True])
def test_memory_of_a_thousand_guided_steps_is_flat(shown: bool) -> None:
    # a graph of a step takes 4 MiB, so that one in ten that stayed would show
    assert alone(solve, shown) <= 20
