r"""Inverse problems under constraints: operators, solvers, and the stage that tests them."""

__all__ = [
    "DPS",
    "DSG",
    "LGDMC",
    "SVD",
    "Blur",
    "CPiGDM",
    "ConstantBudget",
    "Cost",
    "Downsample",
    "Fourier",
    "Inverse",
    "InverseBetaBudget",
    "Liftable",
    "LinearBudget",
    "LinearOperator",
    "Mask",
    "Operator",
    "PiGDM",
    "Pullback",
    "Quantise",
    "RandomProjection",
    "Residual",
    "Run",
    "Select",
    "Sequential",
    "Solver",
    "StochasticLinearBudget",
    "Trust",
    "TrustBudget",
    "cg",
    "guard",
    "misfit",
    "stochastic_round",
]

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
from .linalg import cg
from .linear import Blur, Downsample, Fourier, RandomProjection
from .module import Inverse
from .operators import (
    SVD,
    Liftable,
    LinearOperator,
    Operator,
    Pullback,
    Quantise,
    Residual,
)
from .pigdm import PiGDM
from .selection import Mask, Select
from .solver import Cost, Run, Sequential, Solver, guard, misfit
from .trust import Trust
