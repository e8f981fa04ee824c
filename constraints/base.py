r"""A constraint is known through its residual, or through its distance alone.

A field `x` satisfies the constraint exactly when its residual is zero; the distance
:math:`\ell(x) \geq 0` is by default the mean absolute residual of each sample (Feng et al., 2025,
section 3.1). Everything in this project that asks whether a field obeys the rule asks a
`Constraint`.
"""

__all__ = ["Constraint", "Sum"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError


class Constraint(nn.Module):
    r"""Base of all constraints. A subclass defines `residual`, or only `forward` where there is no
    residual to speak of.

    Both must be differentiable, treat the samples of a batch independently, and stay finite, with
    finite gradients, on noise of the data's scale.
    """

    def residual(self, x: Tensor) -> Tensor:
        r"""Returns the residual, zero if and only if the field satisfies the constraint.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The residuals, with shape `(B, *R)`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines a distance but no residual.")

    def forward(self, x: Tensor) -> Tensor:
        r"""Returns the distance to the constraint set.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The distances, with shape `(B,)`: the mean absolute residual unless overridden.
        """
        return self.residual(x).abs().flatten(1).mean(dim=1)

    def attributes(self) -> dict[str, Any]:
        r"""Returns what a data file must say of itself to fit this constraint: any of the keys
        `problem`, `boundary` and `parameters` of the schema `namm-field/1`. Empty fits any
        file."""
        return {}

    def check_shape(self, x: Tensor) -> None:
        r"""Raises an `InputError` if fields of this shape cannot be judged. Called once, where
        data enter. By default every shape is accepted.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
        """

    def unknowns(self, shape: Sequence[int]) -> int | None:
        r"""Returns how many numbers are free in a field that satisfies the constraint, if that is
        known. A measurement of more numbers than these cannot be fitted to its noise by such a
        field: with n numbers measured and k free, the reduced chi2 of the best fit is at least
        :math:`(n - k) / n` on average, and more where the measurement does not see all of them.

        Arguments:
            shape: The shape `(C, *S)` of one field.
        """
        return None


class Sum(Constraint):
    r"""Creates the intersection of several constraints, whose distance is the weighted sum of
    their distances.

    The residuals are stacked, term k scaled by :math:`w_k N / n_k` with :math:`n_k` its own number
    of entries and N the number of all, so that the mean absolute value is the weighted sum and a
    least-squares method can still work on one residual. Terms that define only a distance are
    accepted as long as no residual is asked for.

    Arguments:
        terms: The constraints.
        weights: One non-negative weight per term; all 1 if missing.

    Raises:
        ValueError: If there is no term, if the number of weights is not the number of terms, or if
            a weight is negative.
    """

    def __init__(self, terms: list[Constraint], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not terms:
            raise ValueError("Sum expects at least one constraint, got none.")
        self.terms = nn.ModuleList(terms)
        self.weights = [1.0] * len(terms) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(terms):
            raise ValueError(
                f"Sum expects one weight per term, got {len(self.weights)} weights for "
                f"{len(terms)} terms."
            )
        if min(self.weights) < 0:
            raise ValueError(f"Sum expects non-negative weights, got {self.weights}.")

    def residual(self, x: Tensor) -> Tensor:
        residuals = [term.residual(x).flatten(1) for term in self._terms()]
        total = sum(r.shape[1] for r in residuals)
        scales = [w * total / r.shape[1] for w, r in zip(self.weights, residuals, strict=True)]
        return torch.cat([s * r for s, r in zip(scales, residuals, strict=True)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        distances = [w * term(x) for w, term in zip(self.weights, self._terms(), strict=True)]
        return torch.stack(distances).sum(dim=0)

    def attributes(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for term in self._terms():
            for key, value in term.attributes().items():
                old = merged.get(key, value)
                both = {**old, **value} if isinstance(value, dict) else value
                if both != ({**value, **old} if isinstance(value, dict) else old):
                    raise InputError(
                        f"The terms of a Sum ask for different {key} of the data, {old} and "
                        f"{value}: no field satisfies both."
                    )
                merged[key] = both
        return merged

    def check_shape(self, x: Tensor) -> None:
        for term in self._terms():
            term.check_shape(x)

    def _terms(self) -> list[Constraint]:
        return list(self.terms)  # type: ignore[arg-type]
