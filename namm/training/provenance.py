r"""Where a checkpoint comes from: its constraint, the shape and hash of its data, its mirror
space. `Provenance` refuses to mix checkpoints of different origin."""

__all__ = ["Provenance", "describe_constraint", "plain", "space"]

import hashlib
import json
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor, nn

from constraints import Constraint, InputError

from ..mirror import IdentityMirror, Mirror


class Provenance(L.Callback):
    r"""Creates the callback that writes into each checkpoint what it was trained on, and refuses a
    checkpoint that was trained on something else.

    The data must be of the kind that the stage's constraint judges. Compared are the constraint
    with its parameters, the shape of a field, the hash of the data, and the space of a diffusion
    model, that is its forward map, between this stage, the parts it loaded, and the checkpoint it
    resumes or tests.

    Arguments:
        force: Whether to go on all the same, saying what is ignored.
    """

    def __init__(self, force: bool = False) -> None:
        self.force = force
        self.own: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.own = {}
        if isinstance(constraint := getattr(pl_module, "constraint", None), Constraint):
            self.own["constraint"] = describe_constraint(constraint)
        if data is not None and hasattr(data, "shape"):
            self.own["shape"] = list(data.shape)
            if hasattr(data, "sha256"):  # which data that are only tested on have none of
                self.own["data"] = data.sha256
            self._compare_data(describe_constraint(data.constraint))
            if isinstance(constraint, Constraint) and not self.force:
                data.check(constraint)
        # an evaluation may restore samples with other maps than those of its space
        mirror = getattr(pl_module, "space", getattr(pl_module, "mirror", None))
        if hasattr(pl_module, "denoiser") and isinstance(mirror, Mirror):
            self.own["space"] = space(mirror)
        drawn = getattr(data, "samples_space", None)
        if drawn and isinstance(mirror, Mirror) and drawn != space(mirror):
            self._refuse(
                f"The samples of {data.mirror_samples} were drawn in another mirror space than "
                "that of these maps"
            )
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
            message = f"{where} has {key} {theirs}, this stage has {ours}"
            self._refuse(message)

    def _refuse(self, message: str) -> None:
        if not self.force:
            raise InputError(f"{message}: give matching ones, or --force to ignore it.")
        L.pytorch.utilities.rank_zero_info(f"Ignored because of --force: {message}.")


def describe_constraint(constraint: Constraint) -> dict[str, Any]:
    r"""Returns the class of a constraint, its plain parameters and its tensors, those of its parts
    and terms included."""
    described = _describe(constraint)
    terms: list[dict[str, Any]] = []
    for name, child in constraint.named_children():
        for module in child if isinstance(child, nn.ModuleList) else [child]:
            if isinstance(module, Constraint):
                terms.append(describe_constraint(module))
            else:
                digest = hashlib.sha256()
                for tensor in (*module.parameters(), *module.buffers()):
                    digest.update(_bytes(tensor))
                described[name] = {**_describe(module), "weights": digest.hexdigest()}
    return {**described, "terms": terms} if terms else described


def _describe(module: nn.Module) -> dict[str, Any]:
    facts = {
        key: plain(value)
        for key, value in sorted(vars(module).items())
        if not key.startswith("_")
        and key != "training"
        and isinstance(value, (bool, int, float, str, list, tuple, np.generic))
    }
    tensors = {**dict(module.named_buffers(recurse=False)), **module._parameters}
    for name, tensor in tensors.items():
        if tensor is not None:
            few = tensor.numel() <= 16
            facts[name] = tensor.tolist() if few else hashlib.sha256(_bytes(tensor)).hexdigest()
    return {"class": type(module).__qualname__, **facts}


def plain(value: Any) -> Any:
    r"""Returns a value as plain data, which checkpoints and JSON give back: dictionaries, lists,
    numbers and text, which is what becomes of anything else."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().double().numpy().tobytes()


def space(mirror: Mirror) -> str:
    r"""Returns what tells the space of a diffusion model from others: a hash of the weights of the
    forward map, or, of maps in closed form, of their parameters; `data` for the identity.

    Arguments:
        mirror: The maps.
    """
    if isinstance(mirror, IdentityMirror):
        return "data"
    digest = hashlib.sha256()
    weights = getattr(mirror, "forward_map", nn.Identity()).state_dict()
    if not weights:
        digest.update(json.dumps(_describe(mirror)).encode())
    for name, weight in weights.items():
        digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _differing(theirs: Any, ours: Any) -> tuple[str, str]:
    r"""Returns two values as text, of hashes the beginning and of parameters those that differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
        return tuple(  # type: ignore[return-value]
            ", ".join(f"{k} {side.get(k, '(none)')}" for k in keys) for side in (theirs, ours)
        )
    cut = 12 if isinstance(theirs, str) else None
    return str(theirs)[:cut], str(ours)[:cut]
