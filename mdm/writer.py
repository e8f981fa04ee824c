r"""Samples of a prediction, as the file that fine-tuning reads."""

__all__ = ["SampleWriter"]

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter

from constraints import InputError, whole_hdf5
from namm import Mirror

SPLITS = ("train", "val")  # in the order of the loaders of a prediction
BLOCK = 2**24  # bytes of the rows that are merged at a time


class SampleWriter(BasePredictionWriter):
    r"""Creates the callback that writes the samples of `MDM.predict_step` to an HDF5 file, one
    dataset `/{split}/y` of shape `(N, C, *S)` per data loader, row i made for field i, with what
    tells their mirror space from others.

    Each process appends the rows of each batch, with their positions, to a part beside the file.
    The first process merges the parts at the end. Memory stays flat where the trainer keeps no
    predictions: `trainer.predict(..., return_predictions=False)`.

    Arguments:
        file: The path of the file; `samples.h5` in the run's folder if missing.

    Raises:
        InputError: If the disk has no space for the samples, or if no process has a sample for a
            field.
    """

    def __init__(self, file: str | None = None) -> None:
        super().__init__(write_interval="batch")
        self.path = file
        self.file = Path(file or "samples.h5")
        self.row = np.dtype([])  # of all parts

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.file = Path(self.path or f"{trainer.log_dir or '.'}/samples.h5")
        if stage == "predict":
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if trainer.is_global_zero:  # before any process begins
                self._remove()

    def outputs(self, verb: str, folder: Path) -> list[Path]:
        r"""Returns the files that a command writes, for `namm.training.folder.Producer`."""
        return [Path(self.path or folder / "samples.h5")] if verb == "predict" else []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        split, y = SPLITS[dataloader_idx], prediction["y"].numpy()
        self.row = np.dtype([("index", "<i8"), ("y", y.dtype, y.shape[1:])])
        rows = np.empty(len(y), self.row)
        rows["index"], rows["y"] = prediction["index"], y
        if batch_idx == dataloader_idx == 0 and trainer.is_global_zero:
            self._check_space(rows.nbytes * trainer.world_size * sum(trainer.num_predict_batches))
        with self._saving(), open(self._part(split, trainer.global_rank), "ab") as part:
            part.write(rows.tobytes())

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.strategy.barrier("samples")
        if not trainer.is_global_zero:
            return
        mirror: Mirror = pl_module.mirror  # type: ignore[assignment]
        with self._saving(), whole_hdf5(self.file) as file:
            file.attrs["schema"] = "namm-mirror/1"
            file.attrs["space"] = mirror.space()
            for split in SPLITS:
                parts = [self._part(split, rank) for rank in range(trainer.world_size)]
                self._merge(file, split, [part for part in parts if part.exists()])
        self._remove()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if trainer.predicting:
            self._remove(f"{trainer.global_rank}.")

    def _check_space(self, size: float) -> None:
        free = shutil.disk_usage(self.file.parent).free
        if free < 2 * size < math.inf:  # the parts and the file
            need = f"needs {2 * size / 1e9:.2g} GB of free space, got {free / 1e9:.2g} GB"
            raise InputError(f"'{self.file}' {need}: name a `file` on another disk.")

    def _part(self, split: str, rank: int) -> Path:
        return self.file.with_name(f".{self.file.name}.{split}.rank{rank}.part")

    def _remove(self, rank: str = "") -> None:
        starts = tuple(f".{self.file.name}.{split}.rank{rank}" for split in SPLITS)
        for part in self.file.parent.glob(".*.part"):
            if part.name.startswith(starts):
                part.unlink()

    def _merge(self, file: Any, split: str, parts: Sequence[Path]) -> None:
        n = sum(part.stat().st_size for part in parts) // self.row.itemsize
        data = file.create_dataset(f"{split}/y", (n, *self.row["y"].shape), self.row["y"].base)
        found = np.zeros(n, bool)
        for part in parts:
            with open(part, "rb") as rows:
                size = min(1024, BLOCK // self.row.itemsize + 1)
                while len(block := np.fromfile(rows, self.row, size)):
                    index, first = np.unique(block["index"], return_index=True)
                    inside = index < n
                    data[index[inside]] = block["y"][first[inside]]
                    found[index[inside]] = True
        if not found.all():
            lack = f"no sample for field {found.argmin()} of split '{split}'"
            raise InputError(f"'{self.file}' has {lack}: give each field to one process.")

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "free some space, or name a `file` on another disk"
            raise InputError(f"'{self.file}' cannot be written ({error}): {advice}.") from error
