"""Written samples: each row belongs to its field."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import distributed
from torch.multiprocessing import ProcessExitedException
from torch.utils.data import DataLoader

from constraints import InputError, derive_seed
from mdm import MDM, Denoiser, DPMSolver, GaussianDenoiser, Result, Sampler, SampleWriter
from namm import space
from tests.disk import small_disk
from tests.mdm.small import tiny_mdm
from tests.problems import Spawned, make_trainer, processes, tiny_data, tiny_denoiser


# predictions
def predict(folder: Path, name: str, batch_size: int, **options: Any) -> dict[str, np.ndarray]:
    stage = tiny_mdm(seed=7, sampler=options.pop("sampler", DPMSolver(3)))
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


class Fatal(DPMSolver):
    """A sampler that kills the second of several processes after its first batch."""

    batches = 0

    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        self.batches += 1
        if self.batches == 2 and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(denoiser, shape, seeds)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_next_run_removes_the_parts_of_several_processes(tmp_path: Path) -> None:
    one = predict(tmp_path, "a.h5", batch_size=2)
    before = (tmp_path / "out" / "a.h5").read_bytes()
    two = {"devices": 2, "strategy": Spawned()}
    with processes(), pytest.raises(ProcessExitedException):
        predict(tmp_path, "a.h5", batch_size=2, trainer=two, sampler=Fatal(3))
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert ".a.h5.train.rank1.part" in left
    assert (tmp_path / "out" / "a.h5").read_bytes() == before

    again = predict(tmp_path, "a.h5", batch_size=2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.h5"]
    assert all(np.array_equal(one[split], again[split]) for split in one)


# files
class Positions(list):
    """The positions of fields of 32 x 32 points, as items of a data set."""

    def __init__(self, n: int) -> None:
        super().__init__({"x": torch.zeros(1, 32, 32), "index": i} for i in range(n))


def draw(file: Path, sampler: Sampler | None = None, rows: int = 20) -> dict[str, np.ndarray]:
    stage = MDM(GaussianDenoiser(torch.eye(32)), sampler=sampler or DPMSolver(2))
    loaders = [DataLoader(Positions(n), batch_size=8) for n in (rows, 4)]
    trainer = make_trainer(file.parent, [SampleWriter(str(file))])
    trainer.predict(stage, loaders, return_predictions=False)
    with h5py.File(file) as found:
        return {split: found[f"{split}/y"][:] for split in found}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Counted(Sampler):
    """A sampler that counts its batches, and whose process is killed at one of them."""

    def __init__(self, fatal: int = 0) -> None:
        self.batches, self.fatal = 0, fatal

    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        self.batches += 1
        if self.batches == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return DPMSolver(2)(denoiser, shape, seeds)


def test_next_run_removes_the_parts_of_a_killed_one(tmp_path: Path) -> None:
    file = tmp_path / "samples.h5"
    expected = draw(file)
    before = file.read_bytes()
    child = multiprocessing.get_context("spawn").Process(
        target=draw, args=(file, Counted(fatal=2))
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert names(tmp_path) == [".samples.h5.train.rank0.part", "samples.h5"]
    assert file.read_bytes() == before
    (tmp_path / ".samples.h5.val.rank3.part").write_bytes(b"of more processes")

    found = draw(file)
    assert names(tmp_path) == ["samples.h5"]
    for split, rows in expected.items():
        np.testing.assert_array_equal(found[split], rows)


# a part takes 20 or 164 kB, the file at the end 100 or 180 kB
@pytest.mark.parametrize(("rows", "size"), [(40, 100_000), (20, 90_000)], ids=["part", "merged"])
def test_full_disk_leaves_the_file_that_was_there(tmp_path: Path, rows: int, size: int) -> None:
    file = tmp_path / "samples.h5"
    file.write_bytes(b"the samples before")

    with small_disk(size), pytest.raises(InputError, match=rf"{file}.*cannot be written") as error:
        draw(file, rows=rows)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["samples.h5"]
    assert file.read_bytes() == b"the samples before"
    assert len(draw(file, rows=rows)["train"]) == rows


def test_space_is_checked_before_the_second_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Counted()

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    # 3 and 1 batches of 8 rows of 4 kB, twice
    free = 2 * 4 * 8 * 4104 - 1
    with pytest.raises(InputError, match=r"samples.h5.*0\.00026 GB.*0\.00026 GB"):
        draw(tmp_path / "samples.h5", sampler)
    assert sampler.batches == 1 and names(tmp_path) == []
    free += 1
    assert len(draw(tmp_path / "samples.h5")["train"]) == 20


class Skips(Positions):
    """Positions of which one comes twice and another not at all."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self[1]["index"] = 2


def test_field_without_a_sample_is_refused(tmp_path: Path) -> None:
    stage = MDM(GaussianDenoiser(torch.eye(32)), sampler=DPMSolver(2))
    loaders = [DataLoader(Skips(4), batch_size=2), DataLoader(Positions(2), batch_size=2)]
    trainer = make_trainer(tmp_path, [SampleWriter(str(tmp_path / "samples.h5"))])

    with pytest.raises(InputError, match=r"field 1 .*'train'"):
        trainer.predict(stage, loaders, return_predictions=False)
    assert names(tmp_path) == []
