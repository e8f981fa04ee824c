r"""A Gaussian blur."""

__all__ = ["Blur"]

import math
from typing import Literal

import torch
from torch import Tensor

from constraints import (
    NonNegativeFloat,
    OpenShare,
    PositiveFloat,
    PositiveInt,
)

from .base import SVD, LinearOperator, check_last_axes, check_sides


class Blur(LinearOperator):
    r"""Creates the separable Gaussian blur over the last two axes, without the directions that it
    all but erases. Its factors are computed once, in float64, and follow the precision of the
    fields.

    The kernel is cut at 4 standard deviations and sums to 1. Directions that the blur damps to
    less than `cutoff` of its largest gain are removed from the operator itself, so that the
    operator, its pseudo-inverse and its projector belong together. The removal changes the result
    by at most `cutoff` times the largest gain, which is 1 on a periodic grid, times the norm of
    the field.

    References:
        Denoising Diffusion Restoration Models (Kawar et al., 2022)
        https://arxiv.org/abs/2201.11793

    Arguments:
        sigma: The standard deviation of the kernel, in grid points.
        size: The sizes `[H, W]` of the last two axes.
        boundary: The values beyond the edges: the field again, its mirror image without the edge
            itself, or zeros.
        cutoff: The gain, relative to the largest, below which a direction is removed, in (0, 1).
        std: The std of the measurement noise.

    Raises:
        InputError: If sigma or a size is not positive, the boundary is none of the three, or the
            cutoff is not between 0 and 1.
    """

    u_rows: Tensor
    u_columns: Tensor
    v_rows: Tensor
    v_columns: Tensor
    values: Tensor
    kept: Tensor

    def __init__(
        self,
        sigma: PositiveFloat,
        size: list[PositiveInt],
        boundary: Literal["circular", "reflect", "zero"] = "circular",
        cutoff: OpenShare = 1e-3,
        std: NonNegativeFloat | Tensor = 0.05,
    ) -> None:
        super().__init__(std)
        check_sides(self, size, axes=2)
        self.size = list(size)
        gains = []
        for axis, n in zip(("rows", "columns"), self.size, strict=True):
            u, s, vh = torch.linalg.svd(_matrix(n, sigma, boundary))
            self.register_buffer(f"u_{axis}", u, persistent=False)
            self.register_buffer(f"v_{axis}", vh.T.contiguous(), persistent=False)
            gains.append(s)
        values = torch.outer(*gains).flatten()
        # a field of coefficients (H, W), of which these places are kept in each channel
        kept = torch.nonzero(values > cutoff * values.max()).flatten()
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("values", values[kept], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_last_axes(self, self.size, x)
        svd = self.svd()
        return svd.u(svd.values.to(x) * svd.vt(x))

    def svd(self) -> SVD:
        def expand(z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            grid = z.new_zeros(*z.shape[:-1], math.prod(self.size)).index_copy(-1, self.kept, z)
            grid = grid.reshape(*z.shape[:-1], *self.size)
            return rows.to(z) @ grid @ columns.to(z).T

        def reduce(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            grid = rows.to(x).T @ x @ columns.to(x)
            return grid.flatten(-2).index_select(-1, self.kept)

        return SVD(
            self.values,
            v=lambda z: expand(z, self.v_rows, self.v_columns),
            vt=lambda x: reduce(x, self.v_rows, self.v_columns),
            u=lambda z: expand(z, self.u_rows, self.u_columns),
            ut=lambda m: reduce(m, self.u_rows, self.u_columns),
            diagonal=False,
        )


def _matrix(n: int, sigma: float, boundary: str) -> Tensor:
    r"""Returns the matrix `(n, n)` of a Gaussian blur along one axis."""
    radius = int(4 * sigma + 0.5)
    taps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (taps.double() / sigma).square())
    kernel = kernel / kernel.sum()
    source = torch.arange(n)[:, None] + taps
    weights = kernel.expand(n, -1)
    if boundary == "zero":
        weights = torch.where((source >= 0) & (source < n), weights, 0.0)
        source = source.clamp(0, n - 1)
    elif boundary == "reflect":
        period = max(2 * (n - 1), 1)
        source = source % period
        source = torch.minimum(source, period - source) if n > 1 else source
    else:
        source = source % n
    return torch.zeros(n, n, dtype=torch.float64).scatter_add(1, source, weights)
