r"""Inverse problems under constraints: operators, solvers, and the stage that tests them."""

__all__ = [
    "DPS",
    "Inverse",
    "LinearOperator",
    "Operator",
    "Pullback",
    "Select",
    "Sequential",
    "Solver",
    "guard",
]

from .dps import DPS
from .module import Inverse
from .operators import LinearOperator, Operator, Pullback, Select
from .solver import Sequential, Solver, guard
