r"""Averages over blocks."""

__all__ = ["Downsample"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from constraints import InputError, Integer, NonNegativeFloat, PositiveInt

from .base import SVD, LinearOperator


class Downsample(LinearOperator):
    r"""Creates the operator that averages over blocks, for super-resolution.

    Arguments:
        factor: The side of a block, at least 1.
        dims: The axes that are averaged over, counted from the last: -1 for the last axis.
        std: The std of the measurement noise.

    Raises:
        InputError: If the factor is below 1 or the axes are not distinct and negative.
    """

    def __init__(
        self,
        factor: PositiveInt,
        dims: Sequence[Integer] = (-2, -1),
        std: NonNegativeFloat | Tensor = 0.05,
    ) -> None:
        super().__init__(std)
        if not dims or max(dims) >= 0 or len(set(dims)) < len(dims):
            raise InputError(f"Downsample expects distinct negative axes, got {list(dims)}.")
        self.factor, self.dims = factor, list(dims)
        self.gain: float = factor ** (-len(dims) / 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim + min(self.dims) < 1 or any(x.shape[d] % self.factor for d in self.dims):
            wanted = f"multiples of {self.factor} on the axes {self.dims}"
            raise InputError(f"Downsample expects {wanted}, got fields {tuple(x.shape)}.")
        for d in self.dims:
            x = x.unflatten(d, (-1, self.factor)).mean(d)
        return x

    def svd(self) -> SVD:
        def v(z: Tensor) -> Tensor:
            for d in self.dims:
                z = z.repeat_interleave(self.factor, d)
            return self.gain * z

        def vt(x: Tensor) -> Tensor:
            return self.forward(x) / self.gain

        values = self.std.new_full((), self.gain, dtype=torch.float64)
        return SVD(values, v, vt, nn.Identity(), nn.Identity(), diagonal=True)
