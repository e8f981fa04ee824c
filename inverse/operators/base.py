r"""Measurements :math:`m = A(x) + \text{std} \cdot n`, and their pull-back to mirror space.

A solver knows a denoiser and an operator and never hears of mirrors: solving in mirror space is
solving with the operator :math:`A \circ f`.
"""

__all__ = [
    "SVD",
    "Liftable",
    "LinearOperator",
    "Operator",
    "Pullback",
    "Quantise",
    "Residual",
]

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from constraints import Constraint, InputError, noise
from namm import Mirror


class Operator(nn.Module, abc.ABC):
    r"""Base of all operators.

    Arguments:
        std: The std of the measurement noise, in units of the measurement: a number; a list with
            one number per channel of a measurement `(B, C, *M)`; or a tensor that broadcasts to
            `(B, *M)`, for noise that differs from point to point.
        axes: The number of axes of the measurement behind the channels, which matters for a list
            alone, kept with the shape `(C, 1, 1)`: 2 unless the operator says otherwise.

    Raises:
        ValueError: If a std is negative or not finite.
    """

    std: Tensor

    def __init__(self, std: float | Sequence[float] | Tensor, axes: int = 2) -> None:
        super().__init__()
        value = torch.as_tensor(std, dtype=torch.get_default_dtype())
        if not (torch.isfinite(value) & (value >= 0)).all():
            raise ValueError(
                f"{type(self).__name__} expects noise of a finite std that is not negative, got "
                f"{std}."
            )
        self.axes: int | None = None
        if not isinstance(std, Tensor) and value.ndim:
            self.axes, value = axes, value.reshape(-1, *[1] * axes)
        self.register_buffer("std", value)

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        r"""Returns the noiseless measurements.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The measurements, with shape `(B, *M)`.
        """

    def field(self, y: Tensor) -> Tensor:
        r"""Returns the fields in data space that belong to the operator's argument; the argument
        itself unless the operator is a `Pullback`."""
        return y

    def lift(self, m: Tensor, sigma: float) -> Tensor:
        r"""Returns a first guess of the fields from their measurements, where solving starts if it
        does not start from noise alone.

        Arguments:
            m: The measurements, with shape `(B, *M)`.
            sigma: The std of the noise that is added to the guess, in field units. What has been
                measured with more noise than that may be left out.

        Raises:
            InputError: If the operator has no pseudo-inverse.
        """
        raise InputError(
            f"{type(self).__name__} has no pseudo-inverse, hence no first guess to start from: "
            "give the transition of the solver a start of 1."
        )

    def measure(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        r"""Returns noisy measurements.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            seeds: One seed for the noise of each field.

        Returns:
            The measurements, with shape `(B, *M)`.
        """
        m = self(x)
        self._check_std(m)
        n = noise([(seed, "measure") for seed in seeds], m.shape[1:], m)
        return m + self.std.to(m) * n

    def _check_std(self, m: Tensor) -> None:
        shape, std = tuple(m.shape), tuple(self.std.shape)
        pairs = zip(reversed(std), reversed(shape), strict=False)
        fits = len(std) <= len(shape) and all(a in (1, b) for a, b in pairs)
        if self.axes is not None and len(shape) != 2 + self.axes:
            fits = False  # a list would be taken along another axis than the channels
        if not fits:
            raise InputError(
                f"{type(self).__name__} expects a std that fits its measurements of shape "
                f"{shape}, got one of shape {std}."
            )


class Liftable(Operator, abc.ABC):
    r"""Base of the operators whose measurements can be lifted back to fields."""

    @abc.abstractmethod
    def pinv(self, m: Tensor) -> Tensor:
        r"""Returns fields, with shape `(B, C, *S)`, whose measurements are m, as far as m can be
        measured at all: :math:`A(A^+(A(x))) = A(x)`.

        Arguments:
            m: The measurements, with shape `(B, *M)`.
        """

    def lift(self, m: Tensor, sigma: float) -> Tensor:
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

    def lift(self, m: Tensor) -> Tensor:
        r"""Returns the coefficients :math:`S^{-1} U^T m` of the smallest field that is measured
        as m.

        Arguments:
            m: The measurements, with shape `(B, *M)`.
        """
        return self.ut(m) / self.values.to(m)


class LinearOperator(Liftable, abc.ABC):
    r"""Base of the linear operators. A subclass defines `svd`, or both `adjoint` and `pinv`."""

    def svd(self) -> SVD | None:
        r"""Returns the singular value decomposition, or nothing if it is not cheaply known."""
        return None

    def adjoint(self, m: Tensor) -> Tensor:
        r"""Returns :math:`A^T m`, with shape `(B, C, *S)`."""
        svd = self._require_svd("adjoint")
        return svd.v(svd.values.to(m) * svd.ut(m))

    def pinv(self, m: Tensor) -> Tensor:
        r"""Returns :math:`A^+ m`, with shape `(B, C, *S)`."""
        svd = self._require_svd("pinv")
        return svd.v(svd.lift(m))

    def lift(self, m: Tensor, sigma: float) -> Tensor:
        r"""Returns :math:`A^+ m` in the singular directions, where they are known, whose noise is
        at most `sigma`: beyond them it would be larger than any field."""
        svd = self.svd()
        if svd is None:
            return self.pinv(m)
        # no direction has more noise than the largest std
        std = self.std if svd.diagonal else self.std.max()
        return svd.v(torch.where(std <= sigma * svd.values, svd.lift(m), 0.0))

    def project(self, x: Tensor) -> Tensor:
        r"""Returns :math:`A^+ A x`, the part of the fields that is measured, with shape
        `(B, C, *S)`."""
        svd = self.svd()
        # V V^T where it is known, which does not divide what has been rounded by small values
        return self.pinv(self(x)) if svd is None else svd.v(svd.vt(x))

    def _require_svd(self, name: str) -> SVD:
        svd = self.svd()
        if svd is None:
            raise NotImplementedError(
                f"{type(self).__name__} was asked for `{name}`: a linear operator defines `svd`, "
                "or both `adjoint` and `pinv`."
            )
        return svd


class Pullback(Operator):
    r"""Creates the operator :math:`A \circ f` on mirror space.

    Arguments:
        operator: The operator A on data space.
        mirror: The maps, of which f is used.
    """

    def __init__(self, operator: Operator, mirror: Mirror) -> None:
        super().__init__(operator.std)
        self.operator, self.mirror = operator, mirror

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(self.mirror.inverse(x))

    def field(self, y: Tensor) -> Tensor:
        return self.operator.field(self.mirror.inverse(y))

    def lift(self, m: Tensor, sigma: float) -> Tensor:
        return self.mirror(self.operator.lift(m, sigma))


class Residual(Operator):
    r"""Creates the operator whose measurements are the residuals of a constraint, so that a solver
    of inverse problems can solve for the constraint alone. Nothing is measured: the residual to
    solve for is 0, whatever the field.

    Arguments:
        constraint: The constraint.
        std: The std of the residual that is tolerated.
    """

    def __init__(self, constraint: Constraint, std: float = 1.0) -> None:
        super().__init__(std)
        self.constraint = constraint

    def forward(self, x: Tensor) -> Tensor:
        return self.constraint.residual(x).flatten(1)

    def measure(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.zeros_like(self(x))


class Quantise(Liftable):
    r"""Creates the operator that rounds to multiples of a step, as a codec does. It is not linear,
    and its gradient is 0.

    Arguments:
        step: The step, in field units.
        std: The std of the measurement noise, or one for each channel of `(B, C, H, W)`.
    """

    def __init__(self, step: float, std: float | list[float] = 0.05) -> None:
        super().__init__(std)
        if not 0 < step < float("inf"):
            raise ValueError(f"Quantise expects a positive step, got {step}.")
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step * torch.round(x / self.step)

    def pinv(self, m: Tensor) -> Tensor:
        return m
