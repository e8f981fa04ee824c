r"""Where a checkpoint comes from: its constraint, the shape and hash of its data, its mirror
space. `Provenance` refuses to mix checkpoints of different origin."""

__all__ = ["JudgedData", "Origin", "Provenance", "Sourced", "TrainingData"]

import json
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L

from constraints import Constraint, InputError

from ..description import describe_constraint
from ..mirror import Mirror


class Origin(NamedTuple):
    r"""The parts of a stage that its checkpoints depend on."""

    constraint: Constraint | None = None
    mirror: Mirror | None = None
    diffusion: bool = False  # whether a diffusion model works in the space of the mirror


@runtime_checkable
class Sourced(Protocol):
    r"""A stage with an origin."""

    def origin(self) -> Origin:
        r"""Returns the parts that checkpoints of the stage depend on."""


@runtime_checkable
class JudgedData(Protocol):
    r"""A data module, after `setup`, whose fields satisfy a constraint."""

    shape: tuple[int, ...]  # of a field, (C, *S)
    constraint: Constraint

    def check(self, constraint: Constraint) -> None:
        r"""Raises an `InputError` if another constraint does not judge such fields."""


@runtime_checkable
class TrainingData(JudgedData, Protocol):
    r"""A data module, after `setup`, on whose fields a stage is trained."""

    sha256: str  # of the fields
    mirror_samples: str | None  # the file of the samples of a diffusion model
    samples_space: str | None  # the name of their mirror space


class Provenance(L.Callback):
    r"""Creates the callback that writes into each checkpoint its origin, and refuses a checkpoint
    of another origin.

    The constraint of the stage must judge the data. The callback compares the constraint with its
    parameters, the shape of a field, the hash of the data, and the mirror space of a diffusion
    model. It compares this stage with the parts that the stage loaded, and with the checkpoint
    that the stage resumes or tests.

    Arguments:
        force: Whether to go on all the same and to print what is ignored.
    """

    def __init__(self, force: bool = False) -> None:
        self.force = force
        self.own: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        constraint, mirror, diffusion = (
            pl_module.origin() if isinstance(pl_module, Sourced) else Origin()
        )
        self.own = {}
        if constraint is not None:
            self.own["constraint"] = describe_constraint(constraint)
        if isinstance(data, JudgedData):
            self.own["shape"] = list(data.shape)
            self._compare_data(describe_constraint(data.constraint))
            if constraint is not None and not self.force:
                data.check(constraint)
        if isinstance(data, TrainingData):
            self.own["data"] = data.sha256
            drawn = data.samples_space
            if drawn and mirror is not None and drawn != mirror.space():
                self._refuse(f"The samples of {data.mirror_samples} have another mirror space")
        if mirror is not None and diffusion:
            self.own["space"] = mirror.space()
        for module in pl_module.modules():
            if isinstance(found := getattr(module, "provenance", None), dict):
                self._compare(found, f"The checkpoint {found.get('checkpoint')}")

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["provenance"] = self.own

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._compare(checkpoint.get("provenance", {}), "The checkpoint given by --ckpt_path")

    def _compare_data(self, found: dict[str, Any]) -> None:
        # a stage may well judge data by another rule than the one that made them, but not by the
        # same rule with other parameters
        own = self.own.get("constraint", {})
        for term in (own, *own.get("terms", [])):
            if term.get("class") == found["class"] and term != found:
                theirs, ours = _differing(found, term)
                self._refuse(f"The data module has constraint {theirs}, this stage has {ours}")

    def _compare(self, found: dict[str, Any], where: str) -> None:
        for key in ("constraint", "shape", "data", "space"):
            if key not in found or key not in self.own:
                continue
            # shipped as text, a tuple has become a list
            theirs, ours = (json.loads(json.dumps(side[key])) for side in (found, self.own))
            if theirs == ours:
                continue
            theirs, ours = _differing(theirs, ours)
            self._refuse(f"{where} has {key} {theirs}, this stage has {ours}")

    def _refuse(self, message: str) -> None:
        if not self.force:
            raise InputError(f"{message}: give matching ones, or --force to ignore it.")
        L.pytorch.utilities.rank_zero_info(f"Ignored because of --force: {message}.")


def _differing(theirs: Any, ours: Any) -> tuple[str, str]:
    r"""Returns two values as text, of hashes the beginning and of parameters those that differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
        return tuple(  # type: ignore[return-value]
            ", ".join(f"{k} {side.get(k, '(none)')}" for k in keys) for side in (theirs, ours)
        )
    cut = 12 if isinstance(theirs, str) else None
    return str(theirs)[:cut], str(ours)[:cut]
