r"""The maps between data space and mirror space, and the few things all stages share.

A name is imported when it is asked for: `namm --help` needs none of them, nor torch.
"""

__all__ = [
    "EMA",
    "ICNN",
    "MMD",
    "NAMM",
    "AxisConv2d",
    "AxisConvTranspose2d",
    "ConstraintDistance",
    "CountCalls",
    "CountFlops",
    "Counting",
    "Evaluation",
    "Flops",
    "IdentityMirror",
    "LogFields",
    "Mean",
    "Mirror",
    "MirrorMap",
    "Optimiser",
    "Origin",
    "Padding",
    "PatchNet",
    "Provenance",
    "ResNet",
    "Spectrum",
    "Spread",
    "Stage",
    "Trained",
    "describe_constraint",
    "field_grid",
    "load",
    "load_mirror",
    "load_part",
    "mirror_losses",
    "pad",
    "pad_per_axis",
    "save_recipe",
    "ship",
    "space",
    "training_loader",
]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .description import describe_constraint
    from .evaluation.base import Evaluation
    from .evaluation.metrics import MMD, ConstraintDistance, Mean, Spectrum, Spread
    from .evaluation.plots import LogFields, field_grid
    from .evaluation.shipping import ship
    from .losses import mirror_losses
    from .mirror import IdentityMirror, Mirror, MirrorMap, space
    from .module import NAMM
    from .nets import ICNN, PatchNet, ResNet
    from .padding import AxisConv2d, AxisConvTranspose2d, Padding, pad, pad_per_axis
    from .training.checkpoint import load_mirror, load_part, save_recipe
    from .training.counting import Counting
    from .training.ema import EMA
    from .training.operations import CountCalls, CountFlops, Flops
    from .training.optimiser import Optimiser
    from .training.provenance import Origin, Provenance
    from .training.shipped import Trained, load
    from .training.stage import Stage, training_loader

_MODULES = {
    "description": ("describe_constraint",),
    "evaluation.base": ("Evaluation",),
    "evaluation.metrics": ("MMD", "ConstraintDistance", "Mean", "Spectrum", "Spread"),
    "evaluation.plots": ("LogFields", "field_grid"),
    "evaluation.shipping": ("ship",),
    "losses": ("mirror_losses",),
    "mirror": ("IdentityMirror", "Mirror", "MirrorMap", "space"),
    "module": ("NAMM",),
    "nets": ("ICNN", "PatchNet", "ResNet"),
    "padding": ("AxisConv2d", "AxisConvTranspose2d", "Padding", "pad", "pad_per_axis"),
    "training.checkpoint": ("load_mirror", "load_part", "save_recipe"),
    "training.counting": ("Counting",),
    "training.ema": ("EMA",),
    "training.operations": ("CountCalls", "CountFlops", "Flops"),
    "training.optimiser": ("Optimiser",),
    "training.provenance": ("Origin", "Provenance"),
    "training.shipped": ("Trained", "load"),
    "training.stage": ("Stage", "training_loader"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
