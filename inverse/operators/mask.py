r"""The pixels inside or outside of a rectangle."""

__all__ = ["Mask"]

import torch
from torch import Tensor

from constraints import InputError, Natural, NonNegativeFloat, PositiveInt

from .base import Orthonormal, check_last_axes


class Mask(Orthonormal):
    r"""Creates the operator that keeps the pixels inside a rectangle of the last two axes, or the
    pixels outside of it. A measurement has the shape `(B, C, K)`, with K pixels row by row.

    Arguments:
        size: The sizes `[H, W]` of the last two axes.
        box: The first row, the first column, the height and the width of the rectangle.
        hidden: Whether the pixels inside the rectangle are hidden, instead of the others.
        std: The std of the measurement noise.

    Raises:
        InputError: If the rectangle is not inside the grid, or hides all of it.
    """

    index: Tensor

    def __init__(
        self,
        size: list[PositiveInt],
        box: list[Natural],
        hidden: bool = False,
        std: NonNegativeFloat | Tensor = 0.2,
    ) -> None:
        super().__init__(std)
        if len(size) != 2 or len(box) != 4:
            raise InputError(
                "Mask expects a size [H, W] and a box [row, column, height, width], got "
                f"{size} and {box}."
            )
        (h, w), (top, left, height, width) = size, box
        inside = torch.zeros(h, w, dtype=torch.bool)
        if min(top, left) < 0 or top + height > h or left + width > w or min(height, width) < 1:
            raise InputError(f"Mask expects a box inside a grid of {h}x{w}, got {box}.")
        inside[top : top + height, left : left + width] = True
        if hidden and inside.all():
            raise InputError(f"Mask expects to see something, but the box {box} hides all.")
        self.size = [h, w]
        index = torch.nonzero(inside.flatten() != hidden).flatten()
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_last_axes(self, self.size, x)
        return x.flatten(-2).index_select(-1, self.index)

    def adjoint(self, m: Tensor) -> Tensor:
        h, w = self.size
        grid = m.new_zeros(*m.shape[:-1], h * w).index_copy(-1, self.index, m)
        return grid.reshape(*m.shape[:-1], h, w)
