r"""Polynomial equations and inequalities in the channels of a field: lines, curves, discs."""

__all__ = ["Polynomial"]

import math

from torch import Tensor

from .base import Constraint
from .batch import Given
from .errors import InputError, check_fields
from .ranges import Real


class Polynomial(Constraint):
    r"""Creates the constraint that a polynomial in the d channels vanishes at every position, or
    is at most zero there.

    For example `[[2, 1, 0], [1, 0, 1], [1, 0, 0]]` is the line :math:`2 x_1 + x_2 + 1 = 0`, and
    `[[1, 2, 0], [1, 0, 2], [-1, 0, 0]]` with `inequality` the unit disc.

    Arguments:
        terms: The terms, each `[c, p_1, ..., p_d]` for :math:`c \prod_i x_i^{p_i}`.
        inequality: Whether values below zero satisfy the constraint too.

    Raises:
        InputError: If there is no term, if the terms are not of one length above 1, or if a power
            is not a whole number from 0.
    """

    def __init__(self, terms: list[list[Real]], inequality: bool = False) -> None:
        super().__init__()
        if not terms or {len(term) for term in terms} != {max(2, len(terms[0]))}:
            raise InputError(f"Polynomial expects terms [c, p_1, ..., p_d], got {terms}.")
        if any(p < 0 or p != int(p) for _, *powers in terms for p in powers):
            raise InputError(f"Polynomial expects powers 0, 1, 2, and so on, got {terms}.")
        self.terms = [(float(c), [int(p) for p in powers]) for c, *powers in terms]
        self.inequality = inequality

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the value of the polynomial at every position, or its positive part.

        Arguments:
            x: The fields, with shape `(B, d, *S)`.

        Returns:
            The residuals, with shape `(B, 1, *S)`.
        """
        channels = x.split(1, dim=1)
        value: Tensor = sum(
            c * math.prod(x_i**p for x_i, p in zip(channels, powers, strict=True))
            for c, powers in self.terms
        )
        return value.relu() if self.inequality else value

    def check_shape(self, x: Tensor) -> None:
        d = len(self.terms[0][1])
        check_fields(self, x, f"{d} channels", x.ndim >= 2 and x.shape[1] == d)
