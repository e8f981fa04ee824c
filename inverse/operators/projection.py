r"""A dense random matrix."""

__all__ = ["RandomProjection"]

import math

import torch
from torch import Tensor

from constraints import NonNegativeFloat, PositiveInt, Seed, generator

from .base import SVD, LinearOperator, check_last_axes, check_sides


class RandomProjection(LinearOperator):
    r"""Creates a dense matrix of independent normal entries of variance :math:`1/n`, with n the
    number of entries of the fields on which it acts. Its factors are computed once, in float64,
    and follow the precision of the fields.

    Arguments:
        rows: The number K of measurements.
        shape: The sizes of the last axes, all of which the matrix mixes: the sizes `[H, W]` for
            the same projection of each channel, `[C, H, W]` for one of the whole field. The
            measurements have the shape `(B, C, K)` or `(B, K)`.
        seed: The seed of the matrix.
        std: The std of the measurement noise.

    Raises:
        InputError: If the number of rows or a size is below 1.
    """

    u: Tensor
    v: Tensor
    values: Tensor

    def __init__(
        self,
        rows: PositiveInt,
        shape: list[PositiveInt],
        seed: Seed = 0,
        std: NonNegativeFloat | Tensor = 0.05,
    ) -> None:
        super().__init__(std)
        check_sides(self, shape)
        self.shape, n = list(shape), math.prod(shape)
        a = torch.randn(rows, n, generator=generator(seed, "projection"), dtype=torch.float64)
        u, s, vh = torch.linalg.svd(a / math.sqrt(n), full_matrices=False)
        kept = s > s[0] * max(a.shape) * torch.finfo(s.dtype).eps
        self.register_buffer("u", u[:, kept], persistent=False)
        self.register_buffer("v", vh[kept].T.contiguous(), persistent=False)
        self.register_buffer("values", s[kept], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_last_axes(self, self.shape, x)
        svd = self.svd()
        return svd.u(svd.values.to(x) * svd.vt(x))

    def svd(self) -> SVD:
        return SVD(
            self.values,
            v=lambda z: (z @ self.v.to(z).T).unflatten(-1, self.shape),
            vt=lambda x: x.flatten(-len(self.shape)) @ self.v.to(x),
            u=lambda z: z @ self.u.to(z).T,
            ut=lambda m: m @ self.u.to(m),
            diagonal=False,
        )
