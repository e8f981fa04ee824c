r"""Trained models that are shipped: a folder for each problem, with a file of weights for each
stage, and a card that says where they are from.

    namm ship runs/burgers pretrained/burgers

Everything that takes a checkpoint takes such a file as well.
"""

__all__ = ["Trained", "load"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constraints import Constraint, InputError

from ..mirror import Mirror
from .checkpoint import load_mirror, load_part, read_checkpoint
from .recipes import build
from .stages import STAGES
from .trust import trusting
from .weights import ROOT, find


@dataclass(frozen=True)
class Trained:
    r"""The trained parts of a problem, frozen and in evaluation mode.

    Eight samples of `burgers = namm.load("burgers")`, from any working directory:

        shape = burgers.mirror.shape(burgers.shape)
        y = mdm.DPMSolver(steps=50)(burgers.denoiser, shape, range(8)).y
        x = burgers.mirror.inverse(y)

    Arguments:
        mirror: The maps, fine-tuned where that is shipped.
        denoiser: The diffusion model in mirror space.
        dm: The plain diffusion model in data space, where it is shipped.
        constraint: The constraint that all were trained for.
        shape: The shape `(C, *S)` of a field in data space.
        card: The card, which says what they were trained on and how good they are.
    """

    mirror: Mirror
    denoiser: Any  # of a package above this one
    dm: Any | None
    constraint: Constraint
    shape: tuple[int, ...]
    card: Path


def load(name: str, *, trust: Sequence[str] = ()) -> Trained:
    r"""Loads what is trained for a problem.

    Arguments:
        name: The name of a problem, of which `pretrained/<name>` is looked up in the working
            directory and then beside the packages of the project, or else the path of a folder
            that `namm ship` wrote.
        trust: The modules of your own whose classes the files may name.

    Raises:
        InputError: If there is no such folder, or no maps and diffusion model in it.
    """
    folder = find(Path("pretrained", name)) or find(name)
    if folder is None:
        raise InputError(
            f"There is no pretrained/{name} here or in {ROOT}: give a folder of weights."
        )
    files = {stage: f for stage in STAGES if (f := folder / f"{stage}.safetensors").is_file()}
    maps = files.get("finetune", files.get("namm"))
    if maps is None or "mdm" not in files:
        raise InputError(
            f"{folder} holds {', '.join(files) or 'no weights'}, but maps, of namm or finetune, "
            "and mdm are wanted: ship a run that trained both."
        )
    state = read_checkpoint(maps)
    with trusting(trust):
        constraint = build(state["hyper_parameters"]["constraint"], Constraint)
        return Trained(
            load_mirror(str(maps)),
            load_part(str(files["mdm"]), "denoiser"),
            load_part(str(files["dm"]), "denoiser") if "dm" in files else None,
            constraint.requires_grad_(False).eval(),
            tuple(state["provenance"]["shape"]),
            folder / "README.md",
        )
