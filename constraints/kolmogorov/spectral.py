r"""Vector calculus on a periodic staggered grid of square cells.

Cell (i, j) holds the velocity u across its upper face in x and v across its upper face in y. The
backward differences of a velocity are its divergence at the centre of the cell, and the forward
differences of a pressure are a velocity. Their product is the five-point Laplacian, which is
diagonal in the real Fourier modes of the grid,

.. math:: (V_x \Lambda_x V_x^T + V_y \Lambda_y V_y^T) \, p = f, \quad
    \Lambda_k = 2 \cos(2 \pi k / n) - 2,

so that a Poisson problem is solved exactly by four small matrix products, on any grid. All
spacings here are 1.
"""

__all__ = [
    "divergence",
    "inverse_laplacian",
    "modes",
    "multiply_modes",
    "project",
    "wavenumbers",
]

import math
from functools import lru_cache

import torch
from torch import Tensor


def divergence(uv: Tensor) -> Tensor:
    r"""Returns the sum of the backward differences.

    Arguments:
        uv: The velocities, with shape `(*, 2, X, Y)`.

    Returns:
        The divergence, with shape `(*, X, Y)`.
    """
    u, v = uv.unbind(-3)
    return (u - u.roll(1, -2)) + (v - v.roll(1, -1))


def project(uv: Tensor) -> Tensor:
    r"""Removes the gradient of a pressure, so that the divergence is zero.

    Arguments:
        uv: The velocities, with shape `(B, 2, X, Y)`.

    Returns:
        The nearest velocities without divergence, with shape `(B, 2, X, Y)`.
    """
    inverse = inverse_laplacian(*uv.shape[-2:], uv.dtype, uv.device)
    p = multiply_modes(divergence(uv), inverse)
    return uv - torch.stack([p.roll(-1, -2) - p, p.roll(-1, -1) - p], dim=-3)


def multiply_modes(f: Tensor, weights: Tensor) -> Tensor:
    r"""Multiplies each Fourier mode of fields by a number.

    Arguments:
        f: The fields, with shape `(B, X, Y)`.
        weights: The numbers, with shape `(X, Y)`, in the order of `modes`.

    Returns:
        The fields, with shape `(B, X, Y)`.
    """
    x, y = (modes(n, f.dtype, f.device) for n in f.shape[-2:])
    return _sandwich(x, _sandwich(x.T, f, y) * weights, y.T)


def wavenumbers(n: int) -> Tensor:
    r"""Returns the number of periods of each mode: 0, 1, 1, 2, 2, ... with shape `(n,)`."""
    return (torch.arange(n, dtype=torch.float64) + 1).div(2, rounding_mode="floor")


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def modes(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""Returns the real Fourier modes of a periodic row, as orthonormal columns.

    Arguments:
        n: The number of points.
        dtype: The precision of the result.
        device: Its device.

    Returns:
        The matrix of modes, with shape `(n, n)`.
    """
    k = wavenumbers(n)
    angle = 2 * math.pi / n * torch.arange(n, dtype=torch.float64)[:, None] * k
    even = (torch.arange(n) % 2 == 1) | (k == 0)
    columns = torch.where(even, angle.cos(), angle.sin())
    unit: Tensor = columns / columns.norm(dim=0)
    return unit.to(device, dtype)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def inverse_laplacian(x: int, y: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""Returns the inverse eigenvalues of the five-point Laplacian, 0 for the constant mode.

    Arguments:
        x: The number of points along x.
        y: The number of points along y.
        dtype: The precision of the result.
        device: Its device.

    Returns:
        The inverse eigenvalues, with shape `(x, y)`.
    """
    rows, columns = (2 * torch.cos(2 * math.pi / n * wavenumbers(n)) - 2 for n in (x, y))
    inverse = 1 / (rows[:, None] + columns)
    inverse[0, 0] = 0
    return inverse.to(device, dtype)


def _sandwich(left: Tensor, f: Tensor, right: Tensor) -> Tensor:
    # each matrix by itself, so that a product is the same to the last bit in any batch
    n = len(f)
    product = torch.bmm(left.expand(n, *left.shape), f)
    return torch.bmm(product, right.expand(n, *right.shape))
