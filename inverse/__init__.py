r"""Inverse problems under constraints: operators, solvers, and the stage that tests them."""

__all__ = [
    "DPS",
    "DSG",
    "LGDMC",
    "SVD",
    "Blur",
    "Bound",
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
    "Misfit",
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

from .linalg import cg
from .module import Inverse
from .operators.base import SVD, Liftable, LinearOperator, Operator
from .operators.blur import Blur
from .operators.downsample import Downsample
from .operators.fourier import Fourier
from .operators.mask import Mask
from .operators.projection import RandomProjection
from .operators.pullback import Pullback
from .operators.quantise import Quantise
from .operators.residual import Residual
from .operators.select import Select
from .solvers.base import Cost, Run, Sequential, Solver, guard
from .solvers.budget import (
    ConstantBudget,
    InverseBetaBudget,
    LinearBudget,
    StochasticLinearBudget,
    TrustBudget,
    stochastic_round,
)
from .solvers.cpigdm import CPiGDM
from .solvers.dps import DPS
from .solvers.dsg import DSG
from .solvers.lgd import LGDMC
from .solvers.misfit import Misfit, misfit
from .solvers.pigdm import PiGDM
from .solvers.trust import Bound, Trust
