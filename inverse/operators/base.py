r"""Measurements :math:`m = A(x) + \text{std} \cdot n` of fields.

A solver knows a denoiser and an operator. It never hears of mirrors: solving in mirror space is
solving with a `Pullback`, the operator :math:`A \circ f`.
"""

__all__ = [
    "SVD",
    "Liftable",
    "LinearOperator",
    "Operator",
    "Orthonormal",
    "check_last_axes",
    "check_sides",
]

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from constraints import (
    Constraint,
    Given,
    InputError,
    NonNegativeFloat,
    Ranged,
    check_fields,
    check_range,
    check_result,
    noise,
    take,
)


class Operator(Ranged, nn.Module, abc.ABC):
    r"""Base of all operators. A subclass defines `forward`.

    Arguments:
        std: The std of the measurement noise, in units of the measurement: a number, or a tensor
            that broadcasts to `(B, *M)`, for noise that differs from point to point.

    Raises:
        InputError: If a std is negative or not finite.
    """

    std: Tensor
    observes = True  # whether a measurement tells something of the field

    def __init__(self, std: NonNegativeFloat | Tensor) -> None:
        super().__init__()
        value = torch.as_tensor(std, dtype=torch.get_default_dtype())
        for end in value.aminmax():
            check_range(self, "[0, inf)", std=float(end))
        self.register_buffer("std", value)

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        r"""Returns the noiseless measurements. An operator that needs the data of the samples
        overrides `predict`, which has them; solvers and evaluations call `predict` alone.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The measurements, with shape `(B, *M)`.
        """

    def predict(self, y: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        r"""Returns the noiseless measurements, with shape `(B, *M)`, and the fields in data space
        to which the measurements belong, with shape `(B, C, *S)`.

        Arguments:
            y: The fields on which the operator acts, with shape `(B, C, *S)`: fields in data
                space, or in the mirror space of a `Pullback`.
            given: The data of each sample.
        """
        return self(y), y

    def guess(self, m: Tensor, sigma: float) -> Tensor:
        r"""Returns a first guess of the fields from their measurements, with shape `(B, C, *S)`.
        A chain that does not start from noise alone starts from the guess.

        Arguments:
            m: The measurements, with shape `(B, *M)`.
            sigma: The std of the noise that is added to the guess, in field units. The guess may
                leave out directions that were measured with more noise.

        Raises:
            InputError: If the operator has no pseudo-inverse.
        """
        raise InputError(
            f"{type(self).__name__} has no pseudo-inverse, hence no first guess to start from: "
            "give the transition of the solver a start of 1."
        )

    def measure(self, x: Tensor, seeds: Sequence[int], given: Given | None = None) -> Tensor:
        r"""Returns noisy measurements, with shape `(B, *M)`.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            seeds: One seed for the noise of each field.
            given: The data of each field.

        Raises:
            InputError: If the fields are not of floating point or the seeds are not as many, if
                the std does not broadcast to the measurements, or if the operator returns other
                than a finite measurement of each field by itself.
        """
        n = len(seeds)
        check_fields(self, x, f"{n} float fields", x.is_floating_point() and len(x) == n)
        m, _ = self.predict(x, given)
        self._check(m, x, given)
        shape, std = tuple(m.shape), tuple(self.std.shape)
        pairs = zip(reversed(std), reversed(shape), strict=False)
        if len(std) > len(shape) or any(a not in (1, b) for a, b in pairs):
            name = type(self).__name__
            raise InputError(f"{name} measures arrays of shape {shape}, got a std of shape {std}.")
        keys = [(seed, "measure") for seed in seeds]
        return m + self.std.to(m) * noise(keys, m.shape[1:], m)

    @torch.no_grad()
    def _check(self, m: Tensor, x: Tensor, given: Given | None) -> None:
        r"""Checks the noiseless measurements of fields, and that the last field has the same
        measurement alone."""
        check_result(f"{type(self).__name__}.predict(x)", m, len(x), None)
        alone, _ = self.predict(x[-1:], take(given, slice(-1, None)))
        close = torch.allclose(alone, m[-1:], rtol=1e-3, atol=1e-3 * float(m.abs().amax()))
        if not (m.isfinite().all() and close):
            fault = "mixes the fields of a batch" if m.isfinite().all() else "is not finite"
            raise InputError(f"The measurement by {type(self).__name__} {fault}: repair it.")

    def check_constraint(self, constraint: Constraint) -> None:
        r"""Raises an `InputError` if answers cannot be judged by a constraint. By default every
        constraint is accepted.

        Arguments:
            constraint: The constraint that judges the answers.
        """


class Liftable(Operator, abc.ABC):
    r"""Base of the operators that lift measurements back to fields."""

    @abc.abstractmethod
    def pinv(self, m: Tensor) -> Tensor:
        r"""Returns fields, with shape `(B, C, *S)`, whose measurements are m, as far as a field
        can have the measurements m at all: :math:`A(A^+(A(x))) = A(x)`.

        Arguments:
            m: The measurements, with shape `(B, *M)`.
        """

    def guess(self, m: Tensor, sigma: float) -> Tensor:
        return self.pinv(m)


@dataclass(frozen=True)
class SVD:
    r"""The thin singular value decomposition :math:`A = U S V^T` of a linear operator, without its
    zero singular values.

    Arguments:
        values: The singular values, all positive, with a shape that broadcasts to `Z`. They may be
            of higher precision than the fields: cast them with `.to(z)`.
        v: The map :math:`V`, from coefficients `(B, *Z)` to fields `(B, C, *S)`.
        vt: The map :math:`V^T`, from fields to coefficients.
        u: The map :math:`U`, from coefficients to measurements `(B, *M)`.
        ut: The map :math:`U^T`, from measurements to coefficients.
        diagonal: Whether U is the identity, so that `Z` is `M` and noise that differs from point
            to point stays independent between the coefficients.
    """

    values: Tensor
    v: Callable[[Tensor], Tensor]
    vt: Callable[[Tensor], Tensor]
    u: Callable[[Tensor], Tensor]
    ut: Callable[[Tensor], Tensor]
    diagonal: bool

    def coefficients(self, m: Tensor) -> Tensor:
        r"""Returns the coefficients :math:`S^{-1} U^T m` of the smallest field that is measured
        as m.

        Arguments:
            m: The measurements, with shape `(B, *M)`.
        """
        return self.ut(m) / self.values.to(m)


class LinearOperator(Liftable, abc.ABC):
    r"""Base of the linear operators. A subclass defines `svd`, or both `adjoint` and `pinv`."""

    def svd(self) -> SVD | None:
        r"""Returns the singular value decomposition, or None if it is not cheaply known."""
        return None

    def adjoint(self, m: Tensor) -> Tensor:
        r"""Returns :math:`A^T m`, with shape `(B, C, *S)`."""
        svd = self._svd("adjoint")
        return svd.v(svd.values.to(m) * svd.ut(m))

    def pinv(self, m: Tensor) -> Tensor:
        r"""Returns :math:`A^+ m`, with shape `(B, C, *S)`."""
        svd = self._svd("pinv")
        return svd.v(svd.coefficients(m))

    def guess(self, m: Tensor, sigma: float) -> Tensor:
        r"""Returns :math:`A^+ m` without the singular directions, where they are known, whose
        noise exceeds `sigma`: in these directions the noise would be larger than any field."""
        svd = self.svd()
        if svd is None:
            return self.pinv(m)
        # no direction has more noise than the largest std
        std = self.std if svd.diagonal else self.std.max()
        return svd.v(torch.where(std <= sigma * svd.values, svd.coefficients(m), 0.0))

    def visible(self, x: Tensor) -> Tensor:
        r"""Returns :math:`A^+ A x`, the part of the fields that is measured, with shape
        `(B, C, *S)`."""
        svd = self.svd()
        # V V^T does not divide rounded numbers by small singular values
        return self.pinv(self(x)) if svd is None else svd.v(svd.vt(x))

    def _svd(self, name: str) -> SVD:
        svd = self.svd()
        if svd is None:
            kind = type(self).__name__
            raise NotImplementedError(
                f"{kind} has no `{name}`: define `svd`, or both `adjoint` and `pinv`."
            )
        return svd


class Orthonormal(LinearOperator, abc.ABC):
    r"""Base of the linear operators whose rows are orthonormal, so that all singular values are 1.
    A subclass defines `forward` and `adjoint`."""

    def svd(self) -> SVD:
        same = nn.Identity()
        return SVD(self.std.new_ones(()), self.adjoint, self, same, same, diagonal=True)


def check_sides(operator: Operator, sides: Sequence[int], axes: int | None = None) -> None:
    r"""Raises an `InputError` unless sides are positive.

    Arguments:
        operator: The operator, which the message names.
        sides: The sizes of the last axes of a field.
        axes: The number of axes, if it is fixed.
    """
    if not sides or min(sides) < 1 or (axes and len(sides) != axes):
        wanted = f"{axes or 'some'} positive sizes, of the last axes"
        raise InputError(f"{type(operator).__name__} expects {wanted}, got {list(sides)}.")


def check_last_axes(operator: Operator, sides: Sequence[int], x: Tensor) -> None:
    r"""Raises an `InputError` unless the last axes of fields `(B, C, *S)` have the sides."""
    fits = list(x.shape[-len(sides) :]) == list(sides)
    check_fields(operator, x, f"last axes of sizes {list(sides)}", fits)
