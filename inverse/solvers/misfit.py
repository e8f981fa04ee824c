r"""The loss of the solvers that have no likelihood of their own."""

__all__ = ["Misfit", "misfit"]
from typing import Literal

import torch
from torch import Tensor, nn

from constraints import Constraint, Given, NonNegativeFloat, Ranged, check_result

from ..operators.base import Operator


class Misfit(Ranged, nn.Module):
    r"""Creates the loss that guides `DPS`, `DSG`, `LGDMC` and `Trust`,

    .. math:: L(\hat y) = \tfrac1p \| (m - A(\hat y)) / \text{std} \|_2^p + w\, \ell(\hat x),

    with the norm of the misfit of each sample, and the field :math:`\hat x` in data space that
    belongs to :math:`\hat y`. The gradient of the norm (p = 1) keeps its length as the misfit
    shrinks. The gradient of the square (p = 2) is the gradient of a Gaussian likelihood.

    Arguments:
        constraint: The constraint that also guides, if any.
        weight: The weight w of the distance to the constraint.
        whiten: Whether the misfit is divided by the std, where the std is not 0.
        power: The power p, 1 or 2.
    """

    def __init__(
        self,
        constraint: Constraint | None = None,
        weight: NonNegativeFloat = 200.0,
        whiten: bool = True,
        power: Literal[1, 2] = 1,
    ) -> None:
        super().__init__()
        self.constraint, self.weight = constraint, weight
        self.whiten, self.power = whiten, power

    def forward(
        self, operator: Operator, m: Tensor, y_hat: Tensor, given: Given | None = None
    ) -> Tensor:
        r"""Returns the losses, with shape `(B,)`. The inverse map of a `Pullback` runs once.

        Arguments:
            operator: The operator.
            m: The measurements, with shape `(B, *M)`.
            y_hat: The denoised fields, with shape `(B, C, *S)`.
            given: The data of each sample.
        """
        m_hat, x_hat = operator.predict(y_hat, given)
        check_result(f"{type(operator).__name__}.predict(y)", m_hat, *m.shape)
        residual = m - m_hat
        if self.whiten:
            residual = residual / torch.where(operator.std > 0, operator.std, 1)
        if self.power == 2:
            loss = residual.square().flatten(1).sum(dim=1) / 2
        else:
            loss = torch.linalg.vector_norm(residual.flatten(1), dim=1)
        if self.constraint is not None:
            distance: Tensor = self.constraint(x_hat, given)
            loss = loss + self.weight * distance
        return loss


def misfit(
    operator: Operator,
    m: Tensor,
    y_hat: Tensor,
    constraint: Constraint | None = None,
    weight: float = 200.0,
    whiten: bool = True,
    power: Literal[1, 2] = 1,
) -> Tensor:
    r"""Returns the losses of a `Misfit`, with shape `(B,)`. Its class describes the arguments."""
    return Misfit(constraint, weight, whiten, power).forward(operator, m, y_hat)
