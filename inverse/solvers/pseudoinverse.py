r"""The base of the solvers by pseudoinverse guidance."""

__all__ = ["Directions", "Pseudoinverse", "PseudoinverseState"]

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from constraints import InputError, PositiveInt
from mdm import DDIM, Level, Transition

from ..linalg import Tangent, damped_step
from ..operators.base import SVD, Liftable, LinearOperator, Operator
from .base import Run, Sequential
from .conjugate import variance


class Directions:
    r"""Creates the singular directions of a linear operator in which the noise of its measurement
    is independent.

    Arguments:
        svd: The singular value decomposition.
        std: The std of the noise.
    """

    def __init__(self, svd: SVD, std: Tensor) -> None:
        self.svd = svd
        damping = (std.double() / svd.values.double()) ** 2
        self.shape = damping.shape
        # singular values that are the same share their coefficients
        self.damping, self.inverse = torch.unique(damping.cpu(), return_inverse=True)

    @classmethod
    def of(cls, operator: Operator) -> "Directions | None":
        r"""Returns the directions of an operator. None where the operator is not linear, where no
        cheap decomposition is known, or where the noise is not independent in its directions."""
        if not isinstance(operator, LinearOperator):
            return None
        svd, std = operator.svd(), operator.std
        if svd is None and not std.any():
            # without noise all directions are alike, and the projector is enough
            same = nn.Identity()
            svd = SVD(torch.ones(()), operator.pinv, operator, same, same, diagonal=True)
        if svd is None or (std.numel() > 1 and not svd.diagonal):
            return None
        return cls(svd, std)

    def gains(self, values: Tensor, z: Tensor) -> Tensor:
        r"""Returns values, one for each distinct damping, as gains of coefficients z."""
        return values[self.inverse].reshape(self.shape).to(z)


@dataclass
class PseudoinverseState:
    r"""The state of a run.

    Arguments:
        directions: The singular directions, where they are known.
        damping: The distinct variances :math:`\text{std}^2 / s_i^2` of the directions; 0 where
            they are not known.
        unsolved: The largest relative residual that conjugate gradients have left of a system,
            with shape `(B,)`; None without conjugate gradients.
    """

    directions: Directions | None
    damping: Tensor
    unsolved: Tensor | None = None


class Pseudoinverse(Sequential[PseudoinverseState], abc.ABC):
    r"""Base of the solvers that know the pseudo-inverse of the operator, or of its tangent.

    Arguments:
        project: Whether the fields are projected onto :math:`A y = m` at the end.
        iterations: The largest number of conjugate gradients, where they are needed.
        transition: The transitions; 20 deterministic steps, `DDIM(20, eta=0)`, if missing.
    """

    def __init__(
        self, project: bool, iterations: PositiveInt, transition: Transition | None
    ) -> None:
        super().__init__(transition or DDIM(20, eta=0.0))
        self.project, self.iterations = project, iterations

    def begin(self, run: Run, shape: Sequence[int]) -> PseudoinverseState:
        if self.project and not isinstance(run.operator, LinearOperator):
            kind = type(run.operator).__name__
            raise InputError(
                f"project=True needs a linear operator, got {kind}: leave it out, or solve in "
                "data space with namm.IdentityMirror."
            )
        if isinstance(run.operator, Liftable):
            run.predict(run.m.new_zeros(len(run.m), *shape))  # whose shape is checked
        directions = Directions.of(run.operator)
        damping = torch.zeros(1).double() if directions is None else directions.damping
        return PseudoinverseState(directions, damping)

    def finish(self, run: Run, y: Tensor) -> Tensor:
        if not self.project:
            return y
        operator = run.operator
        assert isinstance(operator, LinearOperator)  # or `begin` has refused it
        return y + operator.pinv(run.m - run.predict(y))

    def report(self, state: PseudoinverseState) -> dict[str, Any]:
        return {} if state.unsolved is None else {"unsolved": state.unsolved.tolist()}

    @torch.no_grad()
    def correction(
        self, run: Run, state: PseudoinverseState, y_hat: Tensor, level: Level
    ) -> Tensor:
        r"""Returns a change of the denoised fields towards the measurement, with shape
        `(B, C, *S)`, for an operator whose directions are not known: :math:`A^+ m - A^+ A(\hat y)`
        where the operator is not linear but has a pseudo-inverse; else the damped step, and keeps
        what conjugate gradients have left.

        Arguments:
            run: The run.
            state: The state.
            y_hat: The denoised fields, with shape `(B, C, *S)`.
            level: The level.
        """
        operator = run.operator
        if isinstance(operator, Liftable) and not isinstance(operator, LinearOperator):
            return operator.pinv(run.m) - operator.pinv(run.predict(y_hat))
        r2 = float(variance(run.denoiser.schedule, level.t))
        tangent = Tangent.of(operator, y_hat, run.given)
        damping = operator.std.to(y_hat) ** 2 / r2
        change, left = damped_step(tangent, run.m, damping, self.iterations)
        state.unsolved = left if state.unsolved is None else torch.maximum(state.unsolved, left)
        return change
