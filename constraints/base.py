r"""A constraint is known through its residual, or through its distance alone.

A field `x` satisfies the constraint exactly when its residual is zero; the distance
:math:`\ell(x) \geq 0` is by default the mean absolute residual of each sample (Feng et al., 2025,
section 3.1). Everything in this project that asks whether a field obeys the rule asks a
`Constraint`.
"""

__all__ = ["Constraint", "Distance", "Projection", "Sum"]

import abc
import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor, nn

from .batch import Given
from .errors import InputError, check_result
from .ranges import NonNegativeFloat, Ranged


class Projection(NamedTuple):
    r"""The nearest fields that satisfy a constraint.

    `x` holds the fields, with shape `(B, C, *S)`. `report` says of each sample, with shape `(B,)`,
    the `distance` to the constraint that is left and by which Euclidean length the field `moved`.
    """

    x: Tensor
    report: dict[str, Tensor]


def _checked(name: str, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""Returns the method in the form `method(self, x, given=None)`, with a check of the shape of
    its result. The method gets the data of the samples if one of its parameters has the name
    `given`, wherever the parameter stands."""
    parameters = inspect.signature(method).parameters
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    named = "given" in parameters and parameters["given"].kind in kinds

    @wraps(method)
    def wrapped(self: Constraint, x: Tensor, given: Given | None = None, **own: Any) -> Tensor:
        result = method(self, x, given=given, **own) if named else method(self, x, **own)
        shape = {"residual": (len(x), None), "nearest": tuple(x.shape)}.get(name, (len(x),))
        check_result(f"{type(self).__name__}.{name}(x)", result, *shape)
        return result

    return wrapped


class Constraint(Ranged, nn.Module, abc.ABC):
    r"""Base of all constraints. A subclass defines `residual`; a subclass of `Distance`, for a
    rule that has no residual, defines `distance`.

    Both must be differentiable, treat the samples of a batch independently, and stay finite, with
    finite gradients, on noise of the data's scale. A method gets the data of the samples if it has
    a parameter named `given`. A constraint that needs no such data may leave the parameter out.

    Raises:
        InputError: If the class defines neither `residual` nor `distance`.
    """

    _takes_fields: ClassVar = ("residual", "forward", "nearest")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in cls._takes_fields:
            if inspect.isfunction(method := vars(cls).get(name)):
                setattr(cls, name, _checked(name, method))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if missing := sorted(cls.__abstractmethods__):
            raise InputError(
                f"{cls.__name__} does not define `{'`, `'.join(missing)}`: define `residual` in a "
                f"subclass of Constraint, or `distance` in a subclass of Distance."
            )
        return super().__new__(cls, *args, **kwargs)

    @abc.abstractmethod
    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the residual, zero if and only if the field satisfies the constraint.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            given: The data of each sample, with shape `(B, *)` each.

        Returns:
            The residuals, with shape `(B, *R)`.
        """

    def forward(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the distance to the constraint set.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            given: The data of each sample, with shape `(B, *)` each.

        Returns:
            The distances, with shape `(B,)`: the mean absolute residual unless overridden.
        """
        return self.residual(x, given).abs().flatten(1).mean(dim=1)

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the nearest fields that satisfy the constraint, up to rounding. A subclass
        overrides this method where the nearest fields are known in closed form.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            given: The data of each sample, with shape `(B, *)` each.

        Returns:
            The fields, with shape `(B, C, *S)`.

        Raises:
            InputError: If no closed form is known.
        """
        raise InputError(
            f"{type(self).__name__} knows no nearest field in closed form: define its `nearest`."
        )

    @final
    def project(self, x: Tensor, given: Given | None = None) -> Projection:
        r"""Returns the nearest fields that satisfy the constraint, and a report. Gradients pass
        through the fields alone.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            given: The data of each sample, with shape `(B, *)` each.

        Raises:
            InputError: If no closed form is known.
        """
        nearest = self.nearest(x, given)
        with torch.no_grad():
            moved = torch.linalg.vector_norm((nearest - x).flatten(1), dim=1)
            return Projection(nearest, {"distance": self(nearest, given), "moved": moved})

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


class Distance(Constraint):
    r"""Base of the constraints that are known by their distance alone. A subclass defines
    `distance`; the residual is the distance, with shape `(B, 1)`.

    Raises:
        InputError: If the class defines `residual`, or does not define `distance`.
    """

    _takes_fields: ClassVar = ("distance", "forward", "nearest")

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.residual is not Distance.residual:
            name = f"{cls.__name__} is a Distance that defines `residual`"
            raise InputError(f"{name}: define `distance` alone, or derive it from Constraint.")
        return super().__new__(cls, *args, **kwargs)

    @abc.abstractmethod
    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the distance, zero if and only if the field satisfies the constraint.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            given: The data of each sample, with shape `(B, *)` each.

        Returns:
            The distances, with shape `(B,)`.
        """

    @final
    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        return self.distance(x, given).unsqueeze(1)

    def forward(self, x: Tensor, given: Given | None = None) -> Tensor:
        return self.distance(x, given)


class Sum(Constraint):
    r"""Creates the intersection of several constraints, whose distance is the weighted sum of
    their distances.

    The residuals are stacked, term k scaled by :math:`w_k N / n_k` with :math:`n_k` its own number
    of entries and N the number of all, so that the mean absolute value is the weighted sum and a
    least-squares method can still work on one residual.

    Arguments:
        terms: The constraints.
        weights: One non-negative weight per term; all 1 if missing.

    Raises:
        InputError: If there is no term, if the number of weights is not the number of terms, or if
            a weight is negative.
    """

    def __init__(
        self, terms: list[Constraint], weights: Sequence[NonNegativeFloat] | None = None
    ) -> None:
        super().__init__()
        if not terms:
            raise InputError("Sum expects at least one constraint, got none.")
        self.terms = nn.ModuleList(terms)
        self.weights = [1.0] * len(terms) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(terms) or min(self.weights) < 0:
            n = len(terms)
            raise InputError(f"Sum expects {n} weights that are not negative, got {weights}.")

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        residuals = [term.residual(x, given).flatten(1) for term in self._terms()]
        entries = sum(r.shape[1] for r in residuals)
        scales = [w * entries / r.shape[1] for w, r in zip(self.weights, residuals, strict=True)]
        return torch.cat([s * r for s, r in zip(scales, residuals, strict=True)], dim=1)

    def forward(self, x: Tensor, given: Given | None = None) -> Tensor:
        distances = [w * t(x, given) for w, t in zip(self.weights, self._terms(), strict=True)]
        return torch.stack(distances).sum(dim=0)

    def attributes(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for term in self._terms():
            for key, value in term.attributes().items():
                old = merged.get(key, value)
                both = {**old, **value} if isinstance(value, dict) else value
                if both != ({**value, **old} if isinstance(value, dict) else old):
                    values = f"{old} and {value}"
                    raise InputError(f"The terms of a Sum ask for different {key}: {values}.")
                merged[key] = both
        return merged

    def check_shape(self, x: Tensor) -> None:
        for term in self._terms():
            term.check_shape(x)

    def _terms(self) -> list[Constraint]:
        return list(self.terms)  # type: ignore[arg-type]
