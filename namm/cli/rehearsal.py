r"""Builds the stages of a dry run, and tries a small batch where the data are there."""

__all__ = ["rehearse"]

from collections.abc import Sequence
from contextlib import ExitStack
from os.path import abspath
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from constraints import Batch, Constraint, InputError
from datamodules import FieldData
from inverse import Inverse

from ..evaluation.base import Evaluation
from ..training.checkpoint import planned
from ..training.stage import Stage
from .constructing import constructing
from .errors import CommandError
from .lightning import CLI, command
from .plan import Job
from .quiet import quiet

FIELDS = 2  # of the batch


class Rehearsal(CLI):
    r"""Creates the parts of a command, and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def rehearse(jobs: Sequence[Job]) -> None:
    r"""Builds the parts of stages in their order, and writes nothing. A stage that reads the
    checkpoint of an earlier one gets the weights with which the earlier one begins.

    Arguments:
        jobs: The stages.

    Raises:
        InputError: If a part cannot be built, or cannot take a batch of the data.
    """
    states: dict[str, dict[str, Any]] = {}
    for job in (job for job in jobs if job.config):
        try:
            with planned(states), command(job.argv), quiet(), ExitStack() as context:
                built = Rehearsal(context)
                with constructing():
                    attempt(built.model, built.datamodule)
        except (CommandError, InputError) as error:
            raise type(error)(f"stage '{job.name}': {error}") from error
        if job.argv[0] == "fit":
            path = abspath(job.folder / "checkpoints" / "last.ckpt")
            recipes = dict(built.model.hparams)
            states[path] = {"state_dict": built.model.state_dict(), "hyper_parameters": recipes}


def attempt(model: Any, data: Any) -> None:
    r"""Takes a small batch of the data, if their file is there, through a model."""
    files = [data.file, data.mirror_samples] if isinstance(data, FieldData) else [""]
    if not all(Path(file).is_file() for file in files if file is not None):
        return
    data.setup("fit" if isinstance(model, Stage) else "test")
    fields = next(iter(data.fields.values()))
    batch: Batch = default_collate([fields[i] for i in range(min(FIELDS, len(fields)))])
    x, constraint = batch["x"], getattr(model, "constraint", None)
    if isinstance(constraint, Constraint):
        constraint.check_shape(x)
        data.check(constraint)
    if isinstance(model, Stage):
        model.losses(batch, "rehearsal")
    if isinstance(model, Evaluation):
        model.mirror.inverse(model.mirror(x))
        if isinstance(model, Inverse):
            model.operator.measure(x, range(len(x)), batch.get("given"))
