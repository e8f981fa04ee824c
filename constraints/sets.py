r"""Closed convex sets whose nearest points are known in closed form.

The projection :math:`P(x) = \arg\min_z \|z - x\|_2` on a closed convex set is the only point of it
with :math:`\langle x - P(x), z - P(x) \rangle \leq 0` for all its points z. It does not expand
distances, and is differentiable almost everywhere.
"""

__all__ = ["Ball", "Box", "ConvexSet", "Linear", "Simplex"]

import abc
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from .base import Constraint
from .batch import Given
from .errors import InputError, check_fields
from .ranges import Integer, PositiveFloat, Range, Real

_Bound = Annotated[float, Range("[-inf, inf]")]


class ConvexSet(Constraint, abc.ABC):
    r"""Base of the closed convex sets. A subclass defines `residual` and `nearest`."""

    @abc.abstractmethod
    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor: ...


class Linear(ConvexSet):
    r"""Creates the constraint :math:`A x = b` on the entries of a field, or on those along one
    axis at every position. Rows of A may depend on each other, as long as b agrees with them.

    Arguments:
        matrix: The m rows of A, of n numbers each.
        offset: The m numbers b.
        dim: The axis of `(B, C, *S)` along which the n entries lie; all axes of the field,
            flattened, if missing.

    Raises:
        InputError: If the sizes do not match, if a number is not finite, or if no field satisfies
            the equations, or every one does.
    """

    matrix: Tensor
    offset: Tensor
    basis: Tensor
    along: Tensor

    def __init__(
        self,
        matrix: Sequence[Sequence[Real]],
        offset: Sequence[Real],
        dim: Integer | None = None,
    ) -> None:
        super().__init__()
        numbers = [*offset, *(number for row in matrix for number in row)]
        lengths = {len(row) for row in matrix}
        if len(offset) != len(matrix) or len(lengths) != 1 or not all(map(math.isfinite, numbers)):
            raise InputError(
                f"Linear expects finite rows of one length and one offset for each row, got "
                f"{matrix} and {offset}."
            )
        a = torch.as_tensor(matrix, dtype=torch.float64)
        b = torch.as_tensor(offset, dtype=torch.float64)
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        kept = s > max(a.shape) * torch.finfo(s.dtype).eps * s[0]
        u, s, vh = u[:, kept], s[kept], vh[kept]
        left = torch.linalg.vector_norm(b - u @ (u.T @ b)).item()
        if not left <= 1e-9 * torch.linalg.vector_norm(b).item():
            raise InputError(
                f"The equations of this Linear contradict each other: the best x leaves a "
                f"residual of norm {left:.3g}. Change the offset, or leave out rows."
            )
        if not len(s):
            raise InputError(f"Linear expects a matrix that is not zero, got {matrix}.")
        self.dim = dim
        self.register_buffer("matrix", a, persistent=False)
        self.register_buffer("offset", b, persistent=False)
        # a field satisfies the equations if its coordinates in the row space of A are `along`
        self.register_buffer("basis", vh, persistent=False)
        self.register_buffer("along", u.T @ b / s, persistent=False)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns :math:`A x - b`.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The residuals, with shape `(B, m)`; or the shape of x with m entries along the axis.
        """
        residual = self._product(self.matrix, self._vectors(x)) - self.offset.to(x)
        if self.dim is None:
            return residual[:, 0]
        shape = x.movedim(self.dim, -1).shape[:-1]
        return residual.reshape(*shape, -1).movedim(-1, self.dim)

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        vectors = self._vectors(x)
        excess = self._product(self.basis, vectors) - self.along.to(x)
        vectors = vectors - self._product(self.basis.T, excess)
        if self.dim is None:
            return vectors.reshape(x.shape)
        return vectors.reshape(x.movedim(self.dim, -1).shape).movedim(-1, self.dim)

    def check_shape(self, x: Tensor) -> None:
        _check_axis(self, x, self.dim)
        n = self.matrix.shape[1]
        where = "" if self.dim is None else f" along axis {self.dim}"
        size = x[0].numel() if self.dim is None else x.shape[self.dim]
        check_fields(self, x, f"{n} entries{where}", size == n)

    def unknowns(self, shape: Sequence[int]) -> int:
        n = self.matrix.shape[1]
        return math.prod(shape) // n * (n - len(self.basis))

    def _vectors(self, x: Tensor) -> Tensor:
        x = x if self.dim is None else x.movedim(self.dim, -1)
        return x.reshape(len(x), -1, self.matrix.shape[1])

    def _product(self, matrix: Tensor, vectors: Tensor) -> Tensor:
        # one product per vector: a product with all may round by their number
        columns = vectors.reshape(-1, vectors.shape[-1], 1)
        out = torch.bmm(matrix.to(vectors).expand(len(columns), -1, -1), columns)
        return out.reshape(*vectors.shape[:-1], len(matrix))


class Box(ConvexSet):
    r"""Creates the constraint that every number lies between two bounds.

    Arguments:
        low: The lower bound, of all channels or one for each; it may be `-inf`.
        high: The upper bound, likewise; it may be `inf`.

    Raises:
        InputError: If a lower bound is not below or at the upper one, or their numbers differ.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, low: _Bound | list[_Bound] = 0.0, high: _Bound | list[_Bound] = 1.0
    ) -> None:
        super().__init__()
        bounds = [torch.as_tensor(v, dtype=torch.float64) for v in (low, high)]
        sizes = {v.numel() for v in bounds if v.ndim}
        if len(sizes) > 1 or not (bounds[0] <= bounds[1]).all():
            raise InputError(f"Box expects pairs of bounds in order, got {low} and {high}.")
        self.register_buffer("low", bounds[0], persistent=False)
        self.register_buffer("high", bounds[1], persistent=False)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns by how much each number is out of its bounds.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The residuals, with shape `(B, C, *S)`.
        """
        return (_fit(self.low, x) - x).relu() + (x - _fit(self.high, x)).relu()

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        return x.clamp(_fit(self.low, x), _fit(self.high, x))

    def check_shape(self, x: Tensor) -> None:
        _check_channels(self, x, self.low)
        _check_channels(self, x, self.high)


class Ball(ConvexSet):
    r"""Creates the constraint that a field lies in a Euclidean ball, or that the numbers along one
    axis do so at every position.

    Arguments:
        radius: The radius, which is positive.
        centre: The centre, the same number everywhere or one for each channel.
        dim: The axis of `(B, C, *S)` along which the norm is taken; all axes of the field if
            missing.

    Raises:
        InputError: If the radius is not positive, or if a number is not finite.
    """

    centre: Tensor

    def __init__(
        self,
        radius: PositiveFloat = 1.0,
        centre: Real | list[Real] = 0.0,
        dim: Integer | None = None,
    ) -> None:
        super().__init__()
        value = torch.as_tensor(centre, dtype=torch.float64)
        if not torch.isfinite(value).all():
            raise InputError(f"Ball expects a finite centre, got {centre}.")
        self.radius, self.dim = radius, dim
        self.register_buffer("centre", value, persistent=False)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns how far out of the ball a field or position is.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The distances, with the shape of x but one entry along the axis, or along all.
        """
        return (self._norm(x - _fit(self.centre, x)) - self.radius).relu()

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        centre = _fit(self.centre, x)
        norm = self._norm(x - centre)
        outside = norm > self.radius
        nearest = centre + (x - centre) * (self.radius / torch.where(outside, norm, self.radius))
        return torch.where(outside, nearest, x)

    def check_shape(self, x: Tensor) -> None:
        _check_channels(self, x, self.centre)
        _check_axis(self, x, self.dim)

    def _norm(self, x: Tensor) -> Tensor:
        # the gradient of this norm is 0 at 0
        dims = tuple(range(1, x.ndim)) if self.dim is None else self.dim
        norm: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
        return norm


class Simplex(ConvexSet):
    r"""Creates the constraint that the numbers along one axis are not negative and add up to a
    total, as the shares of a mixture do.

    References:
        Efficient Projections onto the l1-Ball for Learning in High Dimensions (Duchi et al., 2008)
        https://doi.org/10.1145/1390156.1390191

    Arguments:
        total: The total, which is positive.
        dim: The axis of `(B, C, *S)` along which the numbers lie.

    Raises:
        InputError: If the total is not positive and finite.
    """

    def __init__(self, total: PositiveFloat = 1.0, dim: Integer = 1) -> None:
        super().__init__()
        self.total, self.dim = total, dim

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the negative parts, and behind them the excess of the sum.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The residuals, with the shape of x but one more entry along the axis.
        """
        excess = x.sum(dim=self.dim, keepdim=True) - self.total
        return torch.cat([(-x).relu(), excess], dim=self.dim)

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        # shifted so that positive numbers are of the size of the total: the projection is the
        # same, and its sums do not cancel
        v = (x - x.detach().amax(dim=self.dim, keepdim=True)).movedim(self.dim, -1)
        largest = v.sort(dim=-1, descending=True).values
        count = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
        threshold = (largest.cumsum(dim=-1) - self.total) / count
        # the largest number stays positive, with all numbers above the threshold of their place
        more = (largest > threshold)[..., 1:].sum(dim=-1, keepdim=True)
        return (v - threshold.gather(-1, more)).relu().movedim(-1, self.dim)

    def check_shape(self, x: Tensor) -> None:
        _check_axis(self, x, self.dim)


def _fit(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x).reshape(-1, *[1] * (x.ndim - 2))


def _check_axis(constraint: Constraint, x: Tensor, dim: Integer | None) -> None:
    fits = dim is None or (-x.ndim < dim < x.ndim and dim != 0)
    check_fields(constraint, x, f"an axis {dim} of (B, C, *S)", fits)


def _check_channels(constraint: Constraint, x: Tensor, value: Tensor) -> None:
    fits = x.ndim >= 2 and (value.ndim == 0 or len(value) == x.shape[1])
    check_fields(constraint, x, f"{value.numel()} channels", fits)
