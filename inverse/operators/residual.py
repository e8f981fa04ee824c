r"""A constraint as an operator."""

__all__ = ["Residual"]

from collections.abc import Sequence

import torch
from torch import Tensor

from constraints import Constraint, Given, InputError, NonNegativeFloat
from namm import describe_constraint

from .base import Operator


class Residual(Operator):
    r"""Creates the operator that returns the residuals of a constraint, so that a solver of
    inverse problems can solve for the constraint alone. No field is observed: the residual to
    solve for is 0 for every field.

    Arguments:
        constraint: The constraint.
        std: The std of the residual that is tolerated.
    """

    observes = False

    def __init__(self, constraint: Constraint, std: NonNegativeFloat = 1.0) -> None:
        super().__init__(std)
        self.constraint = constraint

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x)[0]

    def predict(self, y: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        return self.constraint.residual(y, given).flatten(1), y

    def measure(self, x: Tensor, seeds: Sequence[int], given: Given | None = None) -> Tensor:
        return torch.zeros_like(self.predict(x, given)[0])

    def check_constraint(self, constraint: Constraint) -> None:
        if describe_constraint(self.constraint) != describe_constraint(constraint):
            raise InputError(
                "The constraint of a Residual is not the constraint that judges the answers: "
                "change both alike."
            )
