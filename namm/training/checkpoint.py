r"""A part of a checkpoint, built again as a part of another stage.

A checkpoint carries the recipe (class paths and arguments) of every part in its hyper-parameters,
the averaged weights in `state_dict`, the raw ones in `current_model_state`, and its provenance:
which constraint, which shape, which data. A file of shipped weights carries the same, without
those that are raw.
"""

__all__ = [
    "FromCheckpoint",
    "build_part",
    "load_mirror",
    "load_part",
    "load_weights",
    "planned",
    "read_checkpoint",
    "save_recipe",
    "stamp",
]

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from os.path import abspath
from pathlib import Path
from typing import Any, Literal, Self

import lightning as L
import torch
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import nn

from constraints import InputError

from ..mirror import Mirror
from .io import AtomicCheckpointIO
from .optimiser import Optimiser
from .recipes import build, build_part, check_parts, in_words
from .trust import from_files, in_python_alone, trusting
from .weights import find, unpack

# the checkpoints of a dry run, by their absolute paths
_planned: ContextVar[Mapping[str, dict[str, Any]] | None] = ContextVar("planned", default=None)


def save_recipe(module: L.LightningModule, *parts: str) -> None:
    r"""Saves the hyper-parameters of a module, to be called in its `__init__`. Built from the
    command line, the recipe of every part is saved; built from Python, the named parts are objects
    and stay out, so that a checkpoint holds plain data only.

    Arguments:
        module: The module.
        parts: The names of the arguments that are modules.
    """
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    caller = frame.f_back  # the frame that holds the arguments
    if _given_hyperparameters.get() is not None:
        module.save_hyperparameters(frame=caller)
        return
    settings = {k: asdict(v) for k, v in caller.f_locals.items() if isinstance(v, Optimiser)}
    module.save_hyperparameters(ignore=[*parts, *settings], frame=caller)
    module.save_hyperparameters(settings)


def load_part(
    checkpoint: str,
    name: str,
    weights: Literal["ema", "raw"] = "ema",
    *,
    kind: type = nn.Module,
    trust: Sequence[str] = (),
) -> Any:
    r"""Rebuilds one part of a trained module, frozen and in evaluation mode.

    Arguments:
        checkpoint: The path of a checkpoint, or of shipped weights (`.safetensors`).
        name: The hyper-parameter that holds the part, for example `mirror`.
        weights: Whether to take the averaged weights or the raw ones, which are not shipped.
        kind: The class that the part must be of.
        trust: The modules of your own whose classes the recipe of the part may name.

    Returns:
        The part. Its attribute `provenance` says what it was trained on.

    Raises:
        InputError: If the file is missing, is not a checkpoint, has no such part, lacks the
            weights asked for, or names a class that is neither of this project nor trusted.
    """
    state = read_checkpoint(checkpoint)
    recipes = state.get("hyper_parameters", {})
    parts = sorted(k for k, recipe in recipes.items() if isinstance(recipe, dict))
    if name not in parts:
        known = ", ".join(parts) or "none, since it was trained from Python"
        raise InputError(f"{checkpoint} has no part '{name}'; its parts are {known}.")
    try:
        with trusting(trust):
            part = build(recipes[name], kind)
        found = load_weights(state, name, weights)
        # of shipped weights, the recipe may load them by itself
        if found or "shipped" not in state:
            part.load_state_dict(found)
    except (AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{checkpoint}, {name}: {error}") from error
    part.requires_grad_(False).eval()
    return stamp(part, checkpoint, state)


def stamp(part: nn.Module, checkpoint: str, state: dict[str, Any]) -> nn.Module:
    r"""Notes on a part which checkpoint its weights are from, for `Provenance` to check.

    Arguments:
        part: The part.
        checkpoint: The path of the checkpoint.
        state: The checkpoint, from `read_checkpoint`.
    """
    object.__setattr__(
        part, "provenance", {"checkpoint": str(checkpoint), **(state.get("provenance") or {})}
    )
    return part


@in_python_alone
def load_mirror(
    checkpoint: str, weights: Literal["ema", "raw"] = "ema", *, trust: Sequence[str] = ()
) -> Mirror:
    r"""Loads the trained maps of a `NAMM` checkpoint.

    Arguments:
        checkpoint: The path of a checkpoint of `namm.NAMM`, or of its shipped weights.
        weights: Whether to take the averaged weights or the raw ones.
        trust: The modules of your own whose classes the recipe of the maps may name, as
            `trust=["my_module"]` in Python alone.
    """
    mirror: Mirror = load_part(checkpoint, "mirror", weights, kind=Mirror, trust=trust)
    return mirror


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    r"""Reads a checkpoint or shipped weights as plain data: no code of the file runs.

    Arguments:
        path: The path of the file. A relative path of shipped weights (`.safetensors`) is looked
            up in the working directory, and then beside the packages of the project.
    """
    if (state := (_planned.get() or {}).get(abspath(path))) is not None:
        return state
    file = find(path) if Path(path).suffix == ".safetensors" else None
    if file is not None and file.is_file():
        return unpack(file)
    if not Path(path).is_file():
        raise InputError(f"There is no checkpoint {path}: run the stage that makes it first.")
    return AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")


@contextmanager
def planned(states: Mapping[str, dict[str, Any]]) -> Iterator[None]:
    r"""Lets checkpoints that a plan would write stand for files, while the context lasts.

    Arguments:
        states: The checkpoints by their absolute paths.
    """
    token = _planned.set(states)
    try:
        yield
    finally:
        _planned.reset(token)


def load_weights(
    state: dict[str, Any], name: str, weights: Literal["ema", "raw"] = "ema"
) -> dict[str, torch.Tensor]:
    r"""Returns the weights of one part of a checkpoint that has been read.

    Arguments:
        state: The checkpoint, from `read_checkpoint`.
        name: The part.
        weights: Whether to take the averaged weights or the raw ones, which are the same where
            training did not average.
    """
    source = state["state_dict"]
    if "shipped" in state and not source:
        raise InputError(
            f"{state['shipped']} is a record without weights: give a file of weights."
        )
    if weights == "raw" and "shipped" in state:
        raise InputError(f"{state['shipped']} holds averages alone: give weights=ema.")
    if weights == "raw":
        source = state.get("current_model_state", source)
    prefix = f"{name}."
    return {k[len(prefix) :]: v for k, v in source.items() if k.startswith(prefix)}


class FromCheckpoint(L.LightningModule):
    r"""Base of the modules that Lightning's `load_from_checkpoint` builds from plain data and from
    classes that are allowed, as `load_part` does."""

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *args: Any, trust: Sequence[str] = (), **kwargs: Any
    ) -> Self:
        r"""Builds the module that a checkpoint describes.

        Arguments:
            checkpoint_path: The path of the checkpoint.
            args: The further arguments of Lightning.
            trust: The modules of your own whose classes the checkpoint may name.
            kwargs: The further arguments of Lightning, and arguments of the module.
        """
        state = read_checkpoint(checkpoint_path)
        load: Any = super().load_from_checkpoint
        with trusting([cls.__module__, *trust]), in_words(cls), from_files():
            check_parts(state.get("hyper_parameters", {}))
            module: Self = load(checkpoint_path, *args, **{**kwargs, "weights_only": True})
        return module
