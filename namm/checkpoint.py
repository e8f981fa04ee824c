r"""Parts of one stage's checkpoint as parts of another stage, and where they come from.

A checkpoint carries the recipe (class paths and arguments) of every part in its hyper-parameters,
the averaged weights in `state_dict`, the raw ones in `current_model_state`, and its provenance:
which constraint, which shape, which data. A file of shipped weights carries the same, without
those that are raw.
"""

__all__ = [
    "Provenance",
    "build_part",
    "describe_constraint",
    "load_mirror",
    "load_part",
    "load_weights",
    "plain",
    "read_checkpoint",
    "save_recipe",
    "space",
    "stamp",
]

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor, nn

from constraints import Constraint, InputError

from .io import AtomicCheckpointIO
from .mirror import IdentityMirror, Mirror
from .weights import find, unpack


def save_recipe(module: L.LightningModule, *parts: str) -> None:
    r"""Saves the hyper-parameters of a module, to be called in its `__init__`. Built from the
    command line, the recipe of every part is saved; built from Python, the named parts are objects
    and stay out, so that a checkpoint holds plain data only.

    Arguments:
        module: The module.
        parts: The names of the arguments that are modules.
    """
    frame = inspect.currentframe()
    assert frame is not None
    ignore = [] if _given_hyperparameters.get() is not None else list(parts)
    # the frame of the caller is the one that holds the arguments
    module.save_hyperparameters(ignore=ignore, frame=frame.f_back)


def load_part(checkpoint: str, name: str, weights: Literal["ema", "raw"] = "ema") -> Any:
    r"""Rebuilds one part of a trained module, frozen and in evaluation mode.

    Arguments:
        checkpoint: The path of a checkpoint, or of shipped weights (`.safetensors`).
        name: The hyper-parameter that holds the part, for example `mirror`.
        weights: Whether to take the averaged weights or the raw ones, which are not shipped.

    Returns:
        The part. Its attribute `provenance` says what it was trained on.

    Raises:
        InputError: If the file is missing, is not a checkpoint, has no such part, or lacks the
            weights asked for.
    """
    state = read_checkpoint(checkpoint)
    recipes = state.get("hyper_parameters", {})
    parts = sorted(k for k, recipe in recipes.items() if isinstance(recipe, dict))
    if name not in parts:
        raise InputError(
            f"The checkpoint {checkpoint} has no part '{name}', only "
            f"{', '.join(parts) or 'none: it was trained from Python, without recipes'}."
        )
    part = build_part(recipes[name])
    found = load_weights(state, name, weights)
    if found or "shipped" not in state:  # of shipped weights, the recipe may load them by itself
        part.load_state_dict(found)
    part.requires_grad_(False).eval()
    return stamp(part, checkpoint, state)


def stamp(part: nn.Module, checkpoint: str, state: dict[str, Any]) -> nn.Module:
    r"""Notes on a part which checkpoint its weights are from, for `Provenance` to check.

    Arguments:
        part: The part.
        checkpoint: The path of the checkpoint.
        state: What `read_checkpoint` returned.
    """
    object.__setattr__(
        part, "provenance", {"checkpoint": str(checkpoint), **state.get("provenance", {})}
    )
    return part


def load_mirror(checkpoint: str, weights: Literal["ema", "raw"] = "ema") -> Mirror:
    r"""Loads the trained maps of a `NAMM` checkpoint.

    Arguments:
        checkpoint: The path of a checkpoint of `namm.NAMM`, or of its shipped weights.
        weights: Whether to take the averaged weights or the raw ones.
    """
    return load_part(checkpoint, "mirror", weights)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    r"""Reads a checkpoint or shipped weights as plain data: no code of the file runs.

    Arguments:
        path: The path of the file. A relative path of shipped weights (`.safetensors`) is looked
            up in the working directory, and then beside the packages of the project.
    """
    if Path(path).suffix == ".safetensors" and (file := find(path)) is not None:
        return unpack(file)
    if not Path(path).is_file():
        raise InputError(f"There is no checkpoint {path}: run the stage that makes it first.")
    return AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")


def load_weights(
    state: dict[str, Any], name: str, weights: Literal["ema", "raw"] = "ema"
) -> dict[str, torch.Tensor]:
    r"""Returns the weights of one part of a checkpoint that has been read.

    Arguments:
        state: What `read_checkpoint` returned.
        name: The part.
        weights: Whether to take the averaged weights or the raw ones, which are the same where
            training did not average.
    """
    source = state["state_dict"]
    if "shipped" in state and not source:
        raise InputError(
            f"{state['shipped']} is the record of a training, without its weights: give a file "
            f"that has them, such as finetune.safetensors for maps, or train the stage."
        )
    if weights == "raw" and "shipped" in state:
        raise InputError(
            f"{state['shipped']} holds the averaged weights alone: take weights=ema, or give the "
            f"checkpoint of the training."
        )
    if weights == "raw":
        source = state.get("current_model_state", source)
    prefix = f"{name}."
    return {k[len(prefix) :]: v for k, v in source.items() if k.startswith(prefix)}


def build_part(recipe: Any, kind: type = nn.Module) -> Any:
    r"""Builds a part from its recipe.

    Arguments:
        recipe: The class path and the arguments.
        kind: What the part is.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("part", type=kind)
    config = parser.parse_object({"part": recipe})
    return parser.instantiate_classes(config).part


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
