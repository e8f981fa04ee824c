r"""Solvers: samples of a field given its measurement, one method a file."""

__all__ = [
    "DPS",
    "DSG",
    "LGDMC",
    "CPiGDM",
    "ConstantBudget",
    "Cost",
    "InverseBetaBudget",
    "LinearBudget",
    "PiGDM",
    "Run",
    "Sequential",
    "Solver",
    "StochasticLinearBudget",
    "Trust",
    "TrustBudget",
    "guard",
    "misfit",
    "stochastic_round",
]

from .base import Cost, Run, Sequential, Solver, guard, misfit
from .budget import (
    ConstantBudget,
    InverseBetaBudget,
    LinearBudget,
    StochasticLinearBudget,
    TrustBudget,
    stochastic_round,
)
from .cpigdm import CPiGDM
from .dps import DPS
from .dsg import DSG
from .lgd import LGDMC
from .pigdm import PiGDM
from .trust import Trust
