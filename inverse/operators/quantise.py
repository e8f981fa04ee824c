r"""Rounding, the one operator whose gradient is 0."""

__all__ = ["Quantise"]

import torch
from torch import Tensor

from constraints import NonNegativeFloat, PositiveFloat

from .base import Liftable


class Quantise(Liftable):
    r"""Creates the operator that rounds to multiples of a step, as a codec does. The operator is
    not linear, and its gradient is 0.

    Arguments:
        step: The step, in field units.
        std: The std of the measurement noise.
    """

    def __init__(self, step: PositiveFloat, std: NonNegativeFloat | Tensor = 0.05) -> None:
        super().__init__(std)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step * torch.round(x / self.step)

    def pinv(self, m: Tensor) -> Tensor:
        return m
