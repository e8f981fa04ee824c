r"""The maps between data space and mirror space, and the few things all stages share.

A module is imported when a name of the module is asked for: `namm --help` needs neither these
modules nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the types of the names in the table below
    from .description import describe_constraint as describe_constraint
    from .evaluation.base import Evaluation as Evaluation
    from .evaluation.metrics import MMD as MMD
    from .evaluation.metrics import ConstraintDistance as ConstraintDistance
    from .evaluation.metrics import Mean as Mean
    from .evaluation.metrics import Spectrum as Spectrum
    from .evaluation.metrics import Spread as Spread
    from .evaluation.plots import LogFields as LogFields
    from .evaluation.plots import field_grid as field_grid
    from .evaluation.shipping import ship as ship
    from .losses import mirror_losses as mirror_losses
    from .mirror import IdentityMirror as IdentityMirror
    from .mirror import Mirror as Mirror
    from .mirror import MirrorMap as MirrorMap
    from .mirror import space as space
    from .module import NAMM as NAMM
    from .nets import ICNN as ICNN
    from .nets import PatchNet as PatchNet
    from .nets import ResNet as ResNet
    from .padding import AxisConv2d as AxisConv2d
    from .padding import AxisConvTranspose2d as AxisConvTranspose2d
    from .padding import Padding as Padding
    from .padding import pad as pad
    from .padding import pad_per_axis as pad_per_axis
    from .training.checkpoint import load_mirror as load_mirror
    from .training.checkpoint import load_part as load_part
    from .training.checkpoint import save_recipe as save_recipe
    from .training.counting import Counting as Counting
    from .training.ema import EMA as EMA
    from .training.operations import CountCalls as CountCalls
    from .training.operations import CountFlops as CountFlops
    from .training.operations import Flops as Flops
    from .training.optimiser import Optimiser as Optimiser
    from .training.provenance import Origin as Origin
    from .training.provenance import Provenance as Provenance
    from .training.shipped import Trained as Trained
    from .training.shipped import load as load
    from .training.stage import Stage as Stage
    from .training.stage import training_loader as training_loader
    from .training.trust import in_python_alone as in_python_alone
    from .training.trust import trusting as trusting

_HOMES = {
    "EMA": "training.ema",
    "ICNN": "nets",
    "MMD": "evaluation.metrics",
    "NAMM": "module",
    "AxisConv2d": "padding",
    "AxisConvTranspose2d": "padding",
    "ConstraintDistance": "evaluation.metrics",
    "CountCalls": "training.operations",
    "CountFlops": "training.operations",
    "Counting": "training.counting",
    "Evaluation": "evaluation.base",
    "Flops": "training.operations",
    "IdentityMirror": "mirror",
    "LogFields": "evaluation.plots",
    "Mean": "evaluation.metrics",
    "Mirror": "mirror",
    "MirrorMap": "mirror",
    "Optimiser": "training.optimiser",
    "Origin": "training.provenance",
    "Padding": "padding",
    "PatchNet": "nets",
    "Provenance": "training.provenance",
    "ResNet": "nets",
    "Spectrum": "evaluation.metrics",
    "Spread": "evaluation.metrics",
    "Stage": "training.stage",
    "Trained": "training.shipped",
    "describe_constraint": "description",
    "field_grid": "evaluation.plots",
    "in_python_alone": "training.trust",
    "load": "training.shipped",
    "load_mirror": "training.checkpoint",
    "load_part": "training.checkpoint",
    "mirror_losses": "losses",
    "pad": "padding",
    "pad_per_axis": "padding",
    "save_recipe": "training.checkpoint",
    "ship": "evaluation.shipping",
    "space": "mirror",
    "training_loader": "training.stage",
    "trusting": "training.trust",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    import_module(".training.trust", __name__)  # sets the rules of the parser
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
