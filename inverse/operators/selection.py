r"""Operators that see a part of a field as it is: some positions of an axis, or some pixels."""

__all__ = ["Mask", "Select"]

import abc

import torch
from torch import Tensor, nn

from constraints import InputError

from .base import SVD, LinearOperator


class Selection(LinearOperator, abc.ABC):
    r"""Base of the operators that keep some numbers of a field, whose singular values are all 1. A
    subclass defines `forward` and `adjoint`."""

    def svd(self) -> SVD:
        return SVD(
            self.std.new_ones(()), self.adjoint, self, nn.Identity(), nn.Identity(), diagonal=True
        )


class Select(Selection):
    r"""Creates the operator that keeps some positions along one axis: the first times, some
    states, some channels.

    Arguments:
        dim: The axis of `(B, C, *S)`, for example -1 for time.
        index: The positions kept: a list, or a number n for the first n.
        size: The number of positions of the axis.
        std: The std of the measurement noise, or one for each channel of `(B, C, H, W)`.
    """

    index: Tensor

    def __init__(
        self, dim: int, index: list[int] | int, size: int, std: float | list[float] = 0.2
    ) -> None:
        super().__init__(std)
        kept = list(range(index)) if isinstance(index, int) else index
        if not kept or min(kept) < 0 or max(kept) >= size or len(set(kept)) < len(kept):
            raise ValueError(
                f"Select expects distinct positions from 0 to {size - 1}, got {index}."
            )
        if dim == 0:
            raise ValueError(
                "Select expects an axis of the fields, got 0, which is that of the samples: give "
                "1 for the channels, or -1 for the last axis."
            )
        self.dim, self.size = dim, size
        self.register_buffer("index", torch.tensor(kept), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not -x.ndim < self.dim < x.ndim or x.shape[self.dim] != self.size:
            raise InputError(
                f"Select was told that axis {self.dim} has {self.size} positions, got fields of "
                f"shape {tuple(x.shape)}."
            )
        return x.index_select(self.dim, self.index)

    def adjoint(self, m: Tensor) -> Tensor:
        shape = list(m.shape)
        shape[self.dim] = self.size
        return m.new_zeros(shape).index_copy(self.dim, self.index, m)


class Mask(Selection):
    r"""Creates the operator that keeps the pixels inside a rectangle of the last two axes, or
    those outside of it. A measurement has the shape `(B, C, K)`, with K pixels row by row.

    Arguments:
        size: The sizes `[H, W]` of the last two axes.
        box: The first row, the first column, the height and the width of the rectangle.
        hidden: Whether the rectangle is what is not seen.
        std: The std of the measurement noise, or one for each channel.

    Raises:
        ValueError: If the rectangle is not inside the grid, or nothing would be seen.
    """

    index: Tensor

    def __init__(
        self,
        size: list[int],
        box: list[int],
        hidden: bool = False,
        std: float | list[float] = 0.2,
    ) -> None:
        super().__init__(std, axes=1)
        if len(size) != 2 or len(box) != 4:
            raise ValueError(
                f"Mask expects a size [H, W] and a box [row, column, height, width], got {size} "
                f"and {box}."
            )
        (h, w), (top, left, height, width) = size, box
        seen = torch.zeros(h, w, dtype=torch.bool)
        if min(top, left) < 0 or top + height > h or left + width > w or min(height, width) < 1:
            raise ValueError(f"Mask expects a box inside a grid of {h}x{w}, got {box}.")
        seen[top : top + height, left : left + width] = True
        if hidden and seen.all():
            raise ValueError(f"Mask expects to see something, but the box {box} hides all.")
        self.size = [h, w]
        index = torch.nonzero(seen.flatten() != hidden).flatten()
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if list(x.shape[-2:]) != self.size:
            raise InputError(
                f"Mask was told that the last two axes have the sizes {self.size}, got fields of "
                f"shape {tuple(x.shape)}."
            )
        return x.flatten(-2).index_select(-1, self.index)

    def adjoint(self, m: Tensor) -> Tensor:
        h, w = self.size
        grid = m.new_zeros(*m.shape[:-1], h * w).index_copy(-1, self.index, m)
        return grid.unflatten(-1, (h, w))
