"""Rows of a file as samples: lazily or in memory, and paired with mirror samples."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from constraints import InputError
from datamodules import FieldDataset, read_fields, write_fields
from tests.datamodules.sources import plain, write


# reading
def test_lazy_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fields(tmp_path / "a.h5", {"train": torch.randn(9, 2, 3, 4)}, {}, {})
    memory = FieldDataset(tmp_path / "a.h5", "train")
    monkeypatch.setattr("datamodules.dataset.IN_MEMORY", 0)
    lazy = FieldDataset(tmp_path / "a.h5", "train")

    assert len(lazy) == len(memory) == 9 and lazy.shape == memory.shape == (2, 3, 4)
    for a, b in zip(
        lazy.__getitems__([7, 0, 7, 3]), memory.__getitems__([7, 0, 7, 3]), strict=True
    ):
        assert a["index"] == b["index"] and torch.equal(a["x"], b["x"])
    assert torch.equal(lazy[5]["x"], memory[5]["x"])
    few = read_fields(tmp_path / "a.h5", "train", 2)
    assert torch.equal(few[1], memory[1]["x"]) and len(few) == 2
    assert len(read_fields(tmp_path / "a.h5", "train", 99)) == 9


@pytest.mark.parametrize(("context", "limit"), [("fork", 10**9), ("fork", 0), ("spawn", 0)])
def test_workers_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: str, limit: int
) -> None:
    monkeypatch.setattr("datamodules.dataset.IN_MEMORY", limit)
    fields = FieldDataset(write(tmp_path / "a.h5", train=6), "train")
    assert fields[4]["x"][0, 0] == 4  # the file is open here when workers start
    loader = DataLoader(
        dataset=fields, batch_size=2, num_workers=1, multiprocessing_context=context
    )

    x = torch.cat([batch["x"] for batch in loader])
    assert torch.equal(x[:, 0, 0], torch.arange(6.0))


@pytest.mark.parametrize("limit", [0, 10**9])
def test_mirror_samples_are_paired_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("datamodules.dataset.IN_MEMORY", limit)
    write(tmp_path / "a.h5", train=7, val=2)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["train/y"] = 10.0 + np.arange(3).reshape(3, 1, 1)
        file["val/y"] = 20.0 + np.arange(2).reshape(2, 1, 1)
    data = plain(tmp_path / "a.h5", mirror_samples=str(tmp_path / "y.h5"), batch_size=7)
    data.setup("fit")
    (batch,) = data.train_dataloader()

    assert torch.equal(batch["y"].flatten(), 10.0 + batch["index"] % 3)
    assert torch.equal(batch["x"][:, 0, 0], batch["index"].float())
    (batch,) = data.val_dataloader()
    assert batch["y"].flatten().tolist() == [20.0, 21.0]
    data.setup("predict")
    assert "y" not in next(iter(data.predict_dataloader()[0]))


def test_missing_mirror_samples_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", train=2, val=2)

    with pytest.raises(InputError, match="/train/y"):
        plain(tmp_path / "a.h5", mirror_samples=str(tmp_path / "a.h5")).setup("fit")
