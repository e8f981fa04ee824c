r"""Samples of a prediction, as the file that fine-tuning reads."""

__all__ = ["SampleWriter"]

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from namm import Mirror

SPLITS = ("train", "val")  # in the order of the loaders of a prediction


class SampleWriter(BasePredictionWriter):
    r"""Creates the callback that writes the samples of `MDM.predict_step` to an HDF5 file, one
    dataset `/{split}/y` of shape `(N, C, *S)` per data loader, row i made for field i, with what
    tells their mirror space from others.

    Arguments:
        file: The path of the file; `samples.h5` in the run's folder if missing.
    """

    def __init__(self, file: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = file

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.file = Path(self.path or f"{trainer.log_dir or '.'}/samples.h5")
        if stage == "predict":
            self.file.parent.mkdir(parents=True, exist_ok=True)

    def outputs(self, verb: str, folder: Path) -> list[Path]:
        r"""Returns the files that a command writes, for `namm.training.folder.Producer`."""
        return [Path(self.path or folder / "samples.h5")] if verb == "predict" else []

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        del batch_indices
        parts = [self._merge(batches) for batches in predictions]
        if trainer.world_size > 1:
            ranks: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, parts)
            parts = [self._merge(list(rank)) for rank in zip(*ranks, strict=True)]
        if not trainer.is_global_zero:
            return
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        with h5py.File(temporary, "w") as file:
            mirror: Mirror = pl_module.mirror  # type: ignore[assignment]
            file.attrs["schema"] = "namm-mirror/1"
            file.attrs["space"] = mirror.space()
            for split, part in zip(SPLITS, parts, strict=True):
                file[f"{split}/y"] = part["y"].numpy()
        os.replace(temporary, self.file)

    @staticmethod
    def _merge(batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        index = torch.cat([batch["index"] for batch in batches])
        order = index.argsort()
        return {"y": torch.cat([batch["y"] for batch in batches])[order], "index": index[order]}
