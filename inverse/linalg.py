r"""Matrix-free linear algebra, one system per sample."""

__all__ = ["Tangent", "cg", "damped_step"]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from constraints import Given

from .operators.base import LinearOperator, Operator


def cg(
    matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-5
) -> tuple[Tensor, Tensor]:
    r"""Solves `M z = b` by conjugate gradients, for each sample by itself.

    Arguments:
        matrix: The symmetric positive definite map, batched.
        b: The right-hand sides, with shape `(B, *M)`.
        iterations: The largest number of iterations, each of which costs one product.
        tolerance: The residual, relative to the right-hand side, at which a sample is left alone.

    Returns:
        The solutions, with shape `(B, *M)`, and the relative residuals, `(B,)`.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(dim=1).reshape(-1, *[1] * (u.ndim - 1))

    z, r = torch.zeros_like(b), b
    p, rr = r, dot(r, r)
    goal = tolerance**2 * rr
    for _ in range(iterations):
        active = rr > goal
        if not active.any():
            break
        q = matrix(p)
        step = torch.where(active, rr / dot(p, q).clamp(min=1e-30), 0)
        z, r = z + step * p, r - step * q
        before, rr = rr, dot(r, r)
        p = torch.where(active, r + rr / before.clamp(min=1e-30) * p, p)
    left = (rr / dot(b, b).clamp(min=1e-30)).sqrt()
    return z, left.flatten()


class Tangent(NamedTuple):
    r"""An operator at fields, and its linearisation there.

    Arguments:
        value: The measurements of the fields, with shape `(B, *M)`.
        jvp: The map from directions `(B, C, *S)` to :math:`J v`, `(B, *M)`.
        vjp: The map from `(B, *M)` to :math:`J^T u`, `(B, C, *S)`.
    """

    value: Tensor
    jvp: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, operator: Operator, y: Tensor, given: Given | None = None) -> "Tangent":
        r"""Returns the tangent of an operator at fields. A linear operator is its own tangent.

        Arguments:
            operator: The operator.
            y: The fields, with shape `(B, C, *S)`.
            given: The data of each sample.
        """
        if isinstance(operator, LinearOperator):
            return cls(operator.predict(y, given)[0], operator, operator.adjoint)

        def measured(y: Tensor) -> Tensor:
            return operator.predict(y, given)[0]

        value, pull = torch.func.vjp(measured, y)[:2]

        def jvp(v: Tensor) -> Tensor:
            change: Tensor = torch.func.jvp(measured, (y,), (v,))[1]
            return change

        return cls(value.detach(), jvp, lambda u: pull(u)[0])


def damped_step(
    tangent: Tangent, m: Tensor, damping: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    r"""Returns the smallest change of a field that explains a measurement to first order,

    .. math:: J^T (J J^T + D)^{-1} (m - A(\hat y)),

    by conjugate gradients. The tangent J of a trained inverse map is rank-deficient, which the
    damping D makes harmless.

    Arguments:
        tangent: The operator at the fields.
        m: The measurements, with shape `(B, *M)`.
        damping: The diagonal of D, with a shape that broadcasts to `(B, *M)`: the variance of the
            noise of the measurement, relative to the assumed variance of the clean field.
        iterations: The largest number of iterations, each of one jvp and one vjp of the operator.

    Returns:
        The changes, with shape `(B, C, *S)`, and the relative residuals, `(B,)`.
    """
    damping = damping.expand(m.shape)

    def matrix(z: Tensor) -> Tensor:
        return tangent.jvp(tangent.vjp(z)) + damping * z

    z, left = cg(matrix, m - tangent.value, iterations)
    return tangent.vjp(z), left
