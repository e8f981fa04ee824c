r"""Some positions along one axis of a field."""

__all__ = ["Select"]

import torch
from torch import Tensor

from constraints import InputError, Integer, NonNegativeFloat, PositiveInt

from .base import Orthonormal


class Select(Orthonormal):
    r"""Creates the operator that keeps some positions along one axis: the first times, some
    states, some channels.

    Arguments:
        dim: The axis of `(B, C, *S)`, for example -1 for time.
        index: The positions kept: a list, or a number n for the first n.
        size: The number of positions of the axis.
        std: The std of the measurement noise.

    Raises:
        InputError: If the axis is 0, or the positions are not distinct positions of the axis.
    """

    index: Tensor

    def __init__(
        self,
        dim: Integer,
        index: list[Integer] | Integer,
        size: PositiveInt,
        std: NonNegativeFloat | Tensor = 0.2,
    ) -> None:
        super().__init__(std)
        kept = list(range(index)) if isinstance(index, int) else index
        if not kept or min(kept) < 0 or max(kept) >= size or len(set(kept)) < len(kept):
            raise InputError(f"Select expects distinct positions below {size}, got {index}.")
        if dim == 0:
            raise InputError("Select got axis 0, the samples: give 1 for the channels, or -1.")
        self.dim, self.size = dim, size
        self.register_buffer("index", torch.tensor(kept), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not -x.ndim < self.dim < x.ndim or x.shape[self.dim] != self.size:
            shape, where = tuple(x.shape), f"axis {self.dim}"
            raise InputError(f"Select expects {self.size} positions on {where}, got {shape}.")
        return x.index_select(self.dim, self.index)

    def adjoint(self, m: Tensor) -> Tensor:
        shape = list(m.shape)
        shape[self.dim] = self.size
        return m.new_zeros(shape).index_copy(self.dim, self.index, m)
