r"""The settings behind the course of a training, which a resumed training must share: the order of
the data, the operations of a step and the learning rate depend on them."""

__all__ = ["check_course", "course"]

from dataclasses import asdict
from typing import Any

import lightning as L

from constraints import InputError

from .optimiser import Optimiser


def course(trainer: L.Trainer, loader: Any, seed: int, optimiser: Optimiser) -> dict[str, Any]:
    r"""Returns the settings by name. The number of steps is one of them if the rate decays by the
    last step.

    Arguments:
        trainer: The trainer.
        loader: The loader of the training.
        seed: The seed of the stage.
        optimiser: The settings of Adam.
    """
    sampler = getattr(loader, "batch_sampler", None)
    steps = ("max_steps", "max_epochs") if optimiser.decay else ()
    names = ("accumulate_grad_batches", "limit_train_batches", *steps)
    return {
        "seed": seed,
        **asdict(optimiser),
        "batch_size": getattr(sampler, "batch_size", getattr(loader, "batch_size", None)),
        "processes": trainer.world_size,
        **{name: getattr(trainer, name) for name in names},
    }


def check_course(checkpoint: dict[str, Any], own: dict[str, Any]) -> None:
    r"""Checks that a training goes on with the settings of its checkpoint.

    Arguments:
        checkpoint: The checkpoint.
        own: The settings of the training, from `course`.

    Raises:
        InputError: If they differ.
    """
    trained = checkpoint.get("hyper_parameters", {})  # all that older checkpoints say
    old = {"seed": trained.get("seed")}
    for known in (trained.get("optimiser"), checkpoint.get("course")):
        old |= known if isinstance(known, dict) else {}
    # as text, since a limit of 1 is a batch, and of 1.0 all batches
    if names := [n for n in own if old.get(n) is not None and str(old[n]) != str(own[n])]:
        theirs, ours = (", ".join(f"{n} {side[n]}" for n in names) for side in (old, own))
        mistake = f"The checkpoint was trained with {theirs}, this training has {ours}"
        raise InputError(f"{mistake}: give the former again, or train afresh in another folder.")
