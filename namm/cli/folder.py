r"""The folder of a command: files of other commands stay as they are unless the user allows to
replace them, and the configuration is the one that ran."""

__all__ = ["SaveConfig", "working"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from constraints import InputError

from ..training.folder import check_absent, fresh_logs, locked, outputs
from ..training.io import (
    atomic,
    check_fresh,
    check_inside,
    check_writable,
    last_checkpoint,
    run_folder,
)

CONFIG, HEADER = "config.yaml", b"# lightning.pytorch=="
LOADERS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


class SaveConfig(SaveConfigCallback):
    r"""Creates the callback that keeps a run's configuration, in a form that every verb accepts:
    only `fit` writes it, and without what belongs to that one command. It is written when the
    training begins. The configuration of the steps before stays as `config.until-STEP.yaml`."""

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, *args: Any, **kwargs: Any
    ) -> None:
        config = config.clone()
        for key in ("ckpt_path", "weights_only", "force", "trust", "model.init_args.seed"):
            config.pop(key, None)
        super().__init__(parser, config, *args, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        r"""Writes nothing yet: the training may still be refused."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.already_saved = True
        file = run_folder(trainer) / CONFIG  # which the processes must ask for together
        if not trainer.is_global_zero:
            return
        text = self.parser.dump(self.config, skip_none=False).encode()
        before = file.with_name(f"config.until-{trainer.global_step}.yaml")
        if file.exists() and file.read_bytes() != text and not before.exists():
            file.rename(before)
        with atomic(file) as out:
            out.write(text)


@contextmanager
def working(
    trainer: Trainer, module: LightningModule, verb: str, ckpt_path: str | None, replace: bool
) -> Iterator[None]:
    r"""Refuses a command that would replace a file of another one, that works beside another one,
    or that does nothing. A refusal, here or before the work begins, leaves the folder as it was.

    Arguments:
        trainer: The trainer.
        module: The stage.
        verb: The verb of the command.
        ckpt_path: The checkpoint from which the command goes on, if any.
        replace: Whether the user allows to replace files.

    Raises:
        InputError: If the command is refused.
    """
    limit = f"limit_{LOADERS[verb]}_batches"
    if getattr(trainer, limit) == 0:
        raise InputError(f"trainer.{limit} is 0, so `namm {verb}` does nothing: raise it.")
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        yield  # writes nothing, or works for the process that has checked
        return
    folder, done = run_folder(trainer), False
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]

    def worked() -> bool:
        return done or any(c.already_saved for c in callbacks if isinstance(c, SaveConfig))

    check_writable(folder)
    check_inside(folder, Path(getattr(trainer.logger, "root_dir", None) or folder))
    with locked(folder), fresh_logs(folder, worked):
        check_absent(outputs(trainer, module, verb), None if verb == "fit" else replace)
        if verb == "fit":
            _check_run(trainer, folder / CONFIG, ckpt_path)
        yield
        if verb == "fit" and not worked():
            if last_checkpoint(trainer) is None:
                raise InputError("Nothing was trained: raise trainer.max_steps or max_epochs.")
            print(f"{folder} holds step {trainer.global_step} already: nothing was trained.")
        done = verb != "fit"


def _check_run(trainer: Trainer, config: Path, ckpt_path: str | None) -> None:
    r"""Refuses a training that would replace another training, or a file that is not its own."""
    last = last_checkpoint(trainer)
    if last is None:
        ours = config.exists() and config.read_bytes().startswith(HEADER)
        check_absent([] if ours else [config], None)
    elif ckpt_path != "last" and not (
        ckpt_path and Path(ckpt_path).exists() and last.samefile(ckpt_path)
    ):
        check_fresh(trainer)
