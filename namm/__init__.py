r"""The maps between data space and mirror space, and the few things all stages share.

The parts are imported when they are asked for: `namm --help` needs none of them, nor torch.
"""

__all__ = [
    "EMA",
    "ICNN",
    "MMD",
    "NAMM",
    "AxisConv2d",
    "AxisConvTranspose2d",
    "ConstraintDistance",
    "CountFlops",
    "Counting",
    "Evaluation",
    "Flops",
    "IdentityMirror",
    "LogFields",
    "Mean",
    "Mirror",
    "MirrorMap",
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
]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callbacks import EMA, CountFlops, Flops
    from .checkpoint import (
        Provenance,
        describe_constraint,
        load_mirror,
        load_part,
        save_recipe,
        space,
    )
    from .counting import Counting
    from .evaluation import Evaluation
    from .losses import mirror_losses
    from .metrics import MMD, ConstraintDistance, Mean, Spectrum, Spread
    from .mirror import IdentityMirror, Mirror, MirrorMap
    from .module import NAMM
    from .nets import ICNN, PatchNet, ResNet
    from .padding import AxisConv2d, AxisConvTranspose2d, Padding, pad, pad_per_axis
    from .plots import LogFields, field_grid
    from .shipped import Trained, load, ship
    from .stage import Stage

_PARTS = (
    "callbacks",
    "checkpoint",
    "counting",
    "evaluation",
    "losses",
    "metrics",
    "mirror",
    "module",
    "nets",
    "padding",
    "plots",
    "shipped",
    "stage",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for part in _PARTS:
            module = import_module(f".{part}", __name__)
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
