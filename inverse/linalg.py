r"""Matrix-free linear algebra, one system per sample."""

__all__ = ["Tangent", "cg", "damped_lift"]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .operators import LinearOperator, Operator


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
        value: Its value, with shape `(B, *M)`.
        jvp: From directions `(B, C, *S)` to :math:`J v`, `(B, *M)`.
        vjp: From `(B, *M)` to :math:`J^T u`, `(B, C, *S)`.
    """

    value: Tensor
    jvp: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, operator: Operator, y: Tensor) -> "Tangent":
        r"""Returns the tangent of an operator at fields y, with shape `(B, C, *S)`. That of a
        linear operator is itself."""
        if isinstance(operator, LinearOperator):
            return cls(operator(y), operator, operator.adjoint)
        value, pull = torch.func.vjp(operator, y)[:2]

        def jvp(v: Tensor) -> Tensor:
            return torch.func.jvp(operator, (y,), (v,))[1]

        return cls(value.detach(), jvp, lambda u: pull(u)[0])


def damped_lift(
    operator: Operator, m: Tensor, y_hat: Tensor, variance: float, iterations: int
) -> tuple[Tensor, Tensor]:
    r"""Returns the smallest change of a field that explains a measurement to first order,

    .. math:: J^T (J J^T + \text{std}^2 / r^2)^{-1} (m - A(\hat y)),

    by conjugate gradients. The tangent J of a trained inverse map is rank-deficient, which the
    noise of the measurement makes harmless.

    Arguments:
        operator: The operator.
        m: The measurements, with shape `(B, *M)`.
        y_hat: The denoised fields, with shape `(B, C, *S)`.
        variance: The assumed variance :math:`r^2` of the clean field.
        iterations: The largest number of iterations, each of one jvp and one vjp of the operator.

    Returns:
        The changes, with shape `(B, C, *S)`, and the relative residuals, `(B,)`.
    """
    tangent = Tangent.of(operator, y_hat)
    damping = (operator.std.to(y_hat) ** 2 / variance).expand(m.shape)

    def matrix(z: Tensor) -> Tensor:
        return tangent.jvp(tangent.vjp(z)) + damping * z

    z, left = cg(matrix, m - tangent.value, iterations)
    return tangent.vjp(z), left
