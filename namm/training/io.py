r"""Files that are the old ones or the new ones, never half of each.

A checkpoint is only taken between two training steps, even when Ctrl-C asks for it in the middle
of one: no training can be resumed from an optimiser that was stopped half way through its
parameters.
"""

__all__ = [
    "AtomicCheckpointIO",
    "KeepLast",
    "atomic",
    "check_fresh",
    "check_inside",
    "check_writable",
    "last_checkpoint",
    "numbered",
    "read_plain",
    "run_folder",
    "step",
    "write_together",
]

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from constraints import InputError, PositiveInt, Ranged, check_hash, hash_content, whole_file

LAST = Path("checkpoints", "last.ckpt")


def run_folder(trainer: Trainer) -> Path:
    r"""Returns the folder in which a run leaves its logs, checkpoints and results."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def last_checkpoint(trainer: Trainer) -> Path | None:
    r"""Returns the checkpoint to continue from, if there is one."""
    file = run_folder(trainer) / LAST
    return file if file.exists() else None


def numbered(trainer: Trainer) -> bool:
    r"""Returns whether each run gets a new folder, named by a number."""
    return trainer.logger is not None and isinstance(trainer.logger.version, int)


def step(checkpoint: Path) -> int:
    r"""Returns the number of optimiser steps before a checkpoint."""
    steps: int = AtomicCheckpointIO().load_checkpoint(checkpoint)["global_step"]
    return steps


def check_fresh(trainer: Trainer) -> None:
    r"""Raises an `InputError` if training from the beginning would overwrite a run."""
    file = last_checkpoint(trainer)
    if file is not None:
        raise InputError(
            f"{run_folder(trainer)} already holds a run of {step(file)} steps: continue it with "
            "--ckpt_path last, or start beside it with another --trainer.logger.version."
        )


def check_writable(folder: Path) -> None:
    r"""Raises an `InputError` if the folder cannot be made or written in; makes nothing."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        reason = "may not be written in" if there.is_dir() else "is a file"
        raise InputError(
            f"The run folder {folder} cannot be written: {there} {reason}. Give another "
            "--trainer.logger.save_dir."
        )


def check_inside(folder: Path, root: Path) -> None:
    r"""Raises an `InputError` if a run folder, or a link inside, leads out of the folder of all
    runs.

    Arguments:
        folder: The run folder.
        root: The folder of all runs. If both are the same, links are not checked.
    """
    home = root.resolve()
    links = (path for path in folder.rglob("*") if path.is_symlink()) if folder != root else ()
    for path in (folder, *links):
        if not path.resolve().is_relative_to(home):
            raise InputError(f"{path} leads out of {root}: give another name, or no link.")


@contextmanager
def atomic(path: str | Path) -> Iterator[IO[bytes]]:
    r"""Opens a file for writing that replaces `path` once it is complete and on the disk.

    If the block raises, `path` is left as it was.

    Arguments:
        path: The file to write. Its folder is made if it is missing.
    """
    with whole_file(path) as part, open(part, "wb") as file:
        yield file


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    r"""Writes files that belong together: no file of them is replaced before all are complete.

    Arguments:
        folder: The folder, which is made if it is missing.
        contents: The content of each file by its name. The first file is replaced last.
    """
    with ExitStack() as stack:
        for name, content in contents.items():
            stack.enter_context(whole_file(folder / name)).write_bytes(content)


def read_plain(path: str | Path, map_location: Any = "cpu") -> Any:
    r"""Returns the content of a file of `torch.save`, and runs no code of the file.

    Arguments:
        path: The path of the file.
        map_location: The device of the tensors, as `torch.load` takes it.

    Raises:
        InputError: If the file is damaged, or holds more than plain data.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than plain "
            "data. Take another one."
        ) from error


class AtomicCheckpointIO(TorchCheckpointIO):
    r"""Creates the plug-in through which the trainer writes and reads checkpoints: atomically, and
    without running code that a file may hold.

    Lightning's own one goes through the system's temporary folder, which may be another disk; a
    move between disks is a copy, and a copy can be cut in two.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO writes local files: it takes no storage_options.")
        with atomic(path) as file:
            torch.save({**checkpoint, "sha256": hash_content(checkpoint)}, file)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        checkpoint: dict[str, Any] = read_plain(path, map_location)
        weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
        if not isinstance(weights, dict):
            raise InputError(f"{path} is not a checkpoint of a trainer: it holds no state_dict.")
        said = checkpoint.pop("sha256", None)
        check_hash(path, checkpoint, said)
        return checkpoint


class KeepLast(Ranged, Checkpoint):
    r"""Creates the callback that keeps `checkpoints/last.ckpt` in the run folder: every few steps,
    when training ends, and when it is asked to stop.

    The first Ctrl-C, or SIGTERM, lets the step under way finish and saves it; a second Ctrl-C
    stops at once and leaves the checkpoint that was there.

    Arguments:
        every_n_train_steps: The number of optimiser steps between two checkpoints.
    """

    def __init__(self, every_n_train_steps: PositiveInt = 1000) -> None:
        self.every_n_train_steps = every_n_train_steps
        self.last_model_path = ""
        self._file = LAST
        self._step = 0
        self._asked = False
        self._previous: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._file = run_folder(trainer) / LAST
        self.last_model_path = str(last_checkpoint(trainer) or "")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:  # gradients of several batches are being summed
            return
        self._step = trainer.global_step
        # All processes must agree, or some would wait for the others for ever.
        stop = trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        if stop or trainer.received_sigterm or self._step % self.every_n_train_steps == 0:
            self._save(trainer)
        if stop:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in `on_train_end`, where the average of the weights has replaced them.
        epochs, steps = trainer.max_epochs, trainer.max_steps
        if (
            trainer.should_stop
            or (epochs is not None and trainer.current_epoch + 1 >= epochs > 0)
            or trainer.global_step >= steps > 0
        ):
            self._save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()
        if self._asked:  # in the last validation: the training is complete, but nothing may follow
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _ask(self, signum: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        rank_zero_info("\nStopping after this step; Ctrl-C again stops at once.")

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _save(self, trainer: Trainer) -> None:
        if not all(torch.isfinite(w).all() for w in trainer.lightning_module.parameters()):
            return  # the checkpoint that is there is the last good one
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._file, weights_only=False)
            self.last_model_path = str(self._file)
