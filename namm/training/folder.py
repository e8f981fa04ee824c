r"""The folder of a run: no file is replaced unasked, and one command at a time works there."""

__all__ = ["Producer", "check_absent", "fresh_logs", "locked", "outputs"]

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.loggers import CSVLogger

from constraints import InputError

from .io import run_folder

LOCK = ".namm.lock"
LOGS = ("events.out.tfevents.*", "hparams.yaml")  # of the TensorBoard logger
_held: dict[Path, int] = {}  # the open lock files of this process by their folders


@runtime_checkable
class Producer(Protocol):
    r"""A stage or a callback that writes files, as `namm test` or `namm predict` does."""

    def outputs(self, verb: str, folder: Path) -> list[Path]:
        r"""Returns the files that a command writes, in the folder of the run or elsewhere.

        Arguments:
            verb: The verb of the command.
            folder: The folder of the run.
        """


def outputs(trainer: L.Trainer, module: L.LightningModule, verb: str) -> list[Path]:
    r"""Returns the files that a command writes.

    Arguments:
        trainer: The trainer, whose callbacks may write files.
        module: The stage, which may write files.
        verb: The verb of the command.
    """
    folder = run_folder(trainer)
    makers = [maker for maker in (module, *trainer.callbacks) if isinstance(maker, Producer)]  # type: ignore[attr-defined]
    files = [file for maker in makers for file in maker.outputs(verb, folder)]
    tables = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    return [*files, *(Path(logger.log_dir, "metrics.csv") for logger in tables)]


def check_absent(files: Iterable[Path], replace: bool | None = False) -> None:
    r"""Raises an `InputError` if a command would replace a file.

    Arguments:
        files: The files that the command writes.
        replace: Whether the user allows it; `None` of a command that never replaces a file.
    """
    if not replace and (there := [file for file in files if file.exists()]):
        advice = "another run folder" if replace is None else "--replace"
        raise InputError(f"{there[0]} is there already: move it away, or give {advice}.")


@contextmanager
def fresh_logs(folder: Path, worked: Callable[[], bool]) -> Iterator[None]:
    r"""Removes the logs of a command that came to nothing: loggers open their files before the
    checks.

    Arguments:
        folder: The folder of the run, which no other command works in.
        worked: Returns, after the command, whether it did anything.
    """
    before = _logs(folder)
    try:
        yield
    finally:
        if not worked():
            for file in _logs(folder) - before:
                file.unlink()


def _logs(folder: Path) -> set[Path]:
    return {file for pattern in LOGS for file in folder.glob(pattern)}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    r"""Keeps other commands out of a folder while the block lasts. The operating system frees the
    lock when the process ends, however it ends. A folder that is missing is made, and removed if
    the block leaves it empty.

    Arguments:
        folder: The folder.

    Raises:
        InputError: If another command works in the folder.
    """
    folder = folder.resolve()
    if folder in _held:  # by this command itself
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    _held[folder] = _acquire(folder)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(_held.pop(folder))
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _acquire(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the file of a command that ended in this moment has no name any more
            if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                os.ftruncate(lock, 0)
                os.write(lock, str(os.getpid()).encode())
                return lock
        except BlockingIOError:
            pid = os.read(lock, 20).decode()
            os.close(lock)
            mistake = f"Another command (process {pid}) works in {folder}: wait for its end."
            raise InputError(mistake) from None
        except FileNotFoundError:
            pass
        except OSError:  # a file system without locks
            return lock
        os.close(lock)


def _forget() -> None:
    while _held:
        os.close(_held.popitem()[1])


# A process that this one starts must not keep the lock when this one ends.
os.register_at_fork(after_in_child=_forget)
