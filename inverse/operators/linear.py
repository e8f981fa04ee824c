r"""Linear operators of images and other gridded fields, each with its singular value
decomposition.

Every operator acts on each channel alone unless it says otherwise. Factors are computed once, in
float64, and follow the precision of the fields at each call.
"""

__all__ = ["Blur", "Downsample", "Fourier", "RandomProjection"]

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from constraints import InputError, generator

from .base import SVD, LinearOperator


class Downsample(LinearOperator):
    r"""Creates the operator that averages over blocks, of which the task is super-resolution.

    Arguments:
        factor: The side of a block.
        dims: The axes that are averaged over, counted from the last: -1 for the last one.
        std: The std of the measurement noise, or one for each channel of `(B, C, H, W)`.

    Raises:
        ValueError: If the factor is below 1 or the axes are not distinct and negative.
    """

    def __init__(
        self,
        factor: int,
        dims: Sequence[int] = (-2, -1),
        std: float | list[float] = 0.05,
    ) -> None:
        super().__init__(std)
        if factor < 1:
            raise ValueError(f"Downsample expects a factor of at least 1, got {factor}.")
        if not dims or max(dims) >= 0 or len(set(dims)) < len(dims):
            raise ValueError(
                f"Downsample expects distinct axes counted from the last, such as [-2, -1], got "
                f"{list(dims)}."
            )
        self.factor, self.dims = factor, list(dims)
        self.gain = factor ** (-len(dims) / 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim + min(self.dims) < 1 or any(x.shape[d] % self.factor for d in self.dims):
            raise InputError(
                f"Downsample expects the axes {self.dims} to have sides that are multiples of "
                f"{self.factor}, got fields of shape {tuple(x.shape)}."
            )
        for d in self.dims:
            x = x.unflatten(d, (-1, self.factor)).mean(d)
        return x

    def svd(self) -> SVD:
        def v(z: Tensor) -> Tensor:
            for d in self.dims:
                z = z.repeat_interleave(self.factor, d)
            return self.gain * z

        def vt(x: Tensor) -> Tensor:
            return self(x) / self.gain

        values = self.std.new_full((), self.gain, dtype=torch.float64)
        return SVD(values, v, vt, nn.Identity(), nn.Identity(), diagonal=True)


class Blur(LinearOperator):
    r"""Creates the separable Gaussian blur over the last two axes, without the directions that it
    all but erases.

    The kernel is cut at 4 standard deviations and sums to 1. Directions that the blur damps to
    less than `cutoff` of its largest gain are removed from the operator itself, so that it, its
    pseudo-inverse and its projector belong together. What the removal changes has at most `cutoff`
    times the largest gain, which is 1 on a periodic grid, times the norm of the field.

    References:
        Denoising Diffusion Restoration Models (Kawar et al., 2022)
        https://arxiv.org/abs/2201.11793

    Arguments:
        sigma: The standard deviation of the kernel, in grid points.
        size: The sizes `[H, W]` of the last two axes.
        boundary: What lies beyond the edges: the field again, its mirror image without the edge
            itself, or zeros.
        cutoff: The gain, relative to the largest, below which a direction is removed.
        std: The std of the measurement noise, or one for each channel.

    Raises:
        ValueError: If sigma is not positive, the sizes are not two positive ones, the boundary is
            none of the three, or the cutoff is not between 0 and 1.
    """

    u_rows: Tensor
    u_columns: Tensor
    v_rows: Tensor
    v_columns: Tensor
    values: Tensor
    kept: Tensor

    def __init__(
        self,
        sigma: float,
        size: list[int],
        boundary: Literal["circular", "reflect", "zero"] = "circular",
        cutoff: float = 1e-3,
        std: float | list[float] = 0.05,
    ) -> None:
        super().__init__(std)
        if not 0 < sigma < math.inf:
            raise ValueError(f"Blur expects a positive sigma, got {sigma}.")
        if not 0 < cutoff < 1:
            raise ValueError(f"Blur expects a cutoff between 0 and 1, got {cutoff}.")
        self.size = _sizes(self, size)
        gains = []
        for axis, n in zip(("rows", "columns"), self.size, strict=True):
            u, s, vh = torch.linalg.svd(_blur_matrix(n, sigma, boundary))
            self.register_buffer(f"u_{axis}", u, persistent=False)
            self.register_buffer(f"v_{axis}", vh.T.contiguous(), persistent=False)
            gains.append(s)
        values = torch.outer(*gains).flatten()
        # a field of coefficients (H, W), of which these places are kept in each channel
        kept = torch.nonzero(values > cutoff * values.max()).flatten()
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("values", values[kept], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        _check_sizes(self, x, self.size)
        svd = self.svd()
        return svd.u(svd.values.to(x) * svd.vt(x))

    def svd(self) -> SVD:
        def expand(z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            grid = z.new_zeros(*z.shape[:-1], math.prod(self.size))
            grid = grid.index_copy(-1, self.kept, z).unflatten(-1, self.size)
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


class RandomProjection(LinearOperator):
    r"""Creates a dense matrix of independent normal entries of variance :math:`1/n`, with n the
    number of entries of what it acts on.

    Arguments:
        rows: The number K of measurements.
        shape: The sizes of the last axes, all of which the matrix mixes: the sizes `[H, W]` for
            the same projection of each channel, `[C, H, W]` for one of the whole field. The
            measurements have the shape `(B, C, K)` or `(B, K)`.
        seed: The seed of the matrix.
        std: The std of the measurement noise, or one for each channel of `(B, C, K)`.

    Raises:
        ValueError: If the number of rows or a size is below 1.
    """

    u: Tensor
    v: Tensor
    values: Tensor

    def __init__(
        self,
        rows: int,
        shape: list[int],
        seed: int = 0,
        std: float | list[float] = 0.05,
    ) -> None:
        super().__init__(std, axes=1)
        if rows < 1 or not shape or min(shape) < 1:
            raise ValueError(
                f"RandomProjection expects at least one row and positive sizes, got {rows} rows "
                f"and the sizes {list(shape)}."
            )
        self.shape, n = list(shape), math.prod(shape)
        a = torch.randn(rows, n, generator=generator(seed, "projection"), dtype=torch.float64)
        u, s, vh = torch.linalg.svd(a / math.sqrt(n), full_matrices=False)
        kept = s > s[0] * max(a.shape) * torch.finfo(s.dtype).eps
        self.register_buffer("u", u[:, kept], persistent=False)
        self.register_buffer("v", vh[kept].T.contiguous(), persistent=False)
        self.register_buffer("values", s[kept], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        _check_sizes(self, x, self.shape)
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


class Fourier(LinearOperator):
    r"""Creates the operator that keeps some of the unitary Fourier coefficients over the last two
    axes, as real numbers.

    A real field has the same content at a frequency and at its opposite. Of each such pair kept,
    the measurements hold the real and the imaginary part times :math:`\sqrt 2`; of a frequency
    that is its own opposite, the real part. The rows of the operator are then orthonormal. The
    measurements have the shape `(B, C, K)`: all real parts, then all imaginary parts.

    Arguments:
        size: The sizes `[H, W]` of the last two axes.
        fraction: The share of the pairs that is kept, the lowest ones included, the others drawn
            at random.
        low: The wave number up to which all frequencies are kept, whatever the share; in cycles
            per side.
        seed: The seed of the draw.
        std: The std of the measurement noise, or one for each channel.

    Raises:
        ValueError: If the sizes are not two positive ones, the share is not between 0 and 1, or
            `low` is negative.
    """

    index: Tensor
    weight: Tensor

    def __init__(
        self,
        size: list[int],
        fraction: float = 0.25,
        low: int = 2,
        seed: int = 0,
        std: float | list[float] = 0.05,
    ) -> None:
        super().__init__(std, axes=1)
        self.size = _sizes(self, size)
        if not 0 <= fraction <= 1:
            raise ValueError(f"Fourier expects a fraction between 0 and 1, got {fraction}.")
        if low < 0:
            raise ValueError(f"Fourier expects low to be at least 0, got {low}.")
        h, w = self.size
        i, j = (k.flatten() for k in torch.meshgrid(*map(torch.arange, (h, w)), indexing="ij"))
        place, opposite = i * w + j, -i % h * w + -j % w
        radius = torch.hypot(torch.minimum(i, h - i).double(), torch.minimum(j, w - j).double())
        # one of each pair: the lowest first, then the others in random order
        order = torch.randperm(h * w, generator=generator(seed, "fourier"))
        order = order[(place <= opposite)[order]]
        order = torch.cat([order[radius[order] <= low], order[radius[order] > low]])
        n = max(round(fraction * len(order)), int((radius[order] <= low).sum()))
        index = order[:n].sort().values
        paired = place[index] < opposite[index]
        self.pairs = int(paired.sum())
        # those that have an imaginary part come first
        index = torch.cat([index[paired], index[~paired]])
        weight = torch.ones(n, dtype=torch.float64)
        weight[: self.pairs] = math.sqrt(2)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        _check_sizes(self, x, self.size)
        spectrum = torch.fft.fft2(x, norm="ortho").flatten(-2).index_select(-1, self.index)
        spectrum = self.weight.to(x) * spectrum
        return torch.cat([spectrum.real, spectrum.imag[..., : self.pairs]], dim=-1)

    def adjoint(self, m: Tensor) -> Tensor:
        n = len(self.index)
        real, imag = m[..., :n], F.pad(m[..., n:], (0, n - self.pairs))
        kept = self.weight.to(m) * torch.complex(real, imag)
        spectrum = kept.new_zeros(*m.shape[:-1], math.prod(self.size))
        spectrum = spectrum.index_copy(-1, self.index, kept).unflatten(-1, self.size)
        return torch.fft.ifft2(spectrum, norm="ortho").real

    def svd(self) -> SVD:
        return SVD(
            self.std.new_ones(()), self.adjoint, self, nn.Identity(), nn.Identity(), diagonal=True
        )


def _sizes(operator: LinearOperator, size: Sequence[int]) -> list[int]:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"{type(operator).__name__} expects two positive sizes [H, W], got {list(size)}."
        )
    return list(size)


def _check_sizes(operator: LinearOperator, x: Tensor, size: list[int]) -> None:
    if list(x.shape[-len(size) :]) != size:
        raise InputError(
            f"{type(operator).__name__} was told that the last axes have the sizes {size}, got "
            f"fields of shape {tuple(x.shape)}."
        )


def _blur_matrix(n: int, sigma: float, boundary: str) -> Tensor:
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
    elif boundary == "circular":
        source = source % n
    else:
        raise ValueError(
            f"Blur expects the boundary to be circular, reflect or zero, got {boundary!r}."
        )
    return torch.zeros(n, n, dtype=torch.float64).scatter_add(1, source, weights)
