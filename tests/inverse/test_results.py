"""The results of a user's constraint, operator and denoiser are checked where they are called."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from constraints import Constraint, InputError
from inverse import DPS, Operator
from inverse.operators.select import Select
from mdm import DDIM, Denoiser, DPMSolver, GaussianDenoiser, VPSchedule

X = torch.linspace(-1, 1, 3 * 2 * 4 * 4).reshape(3, 2, 4, 4)


class Odd(Operator):
    """An operator that returns the result of a function of the fields."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__(0.1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[no-any-return]


class Rule(Constraint):
    """A constraint whose residual is the result of a function of the fields."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def residual(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[no-any-return]


class Flat(Denoiser):
    """A denoiser that forgets the shape of its fields."""

    def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
        return y_t.flatten(1)


def solve(operator: Operator, m: Tensor, seeds: int = 3, solver: DPS | None = None) -> Tensor:
    solver = solver or DPS(transition=DDIM(2))
    denoiser = GaussianDenoiser(torch.eye(32), 0.0, VPSchedule())
    return solver(denoiser, operator, m, (2, 4, 4), range(seeds)).y


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x: x.mean(0, keepdim=True), r"Odd.predict\(x\).*\(3, \*\), got .*\(1, 2, 4, 4\)"),
        (lambda x: (x, x), r"\(3, \*\), got tuple"),
        (lambda x: x / 0, "is not finite"),
        (lambda x: x - x.mean(0), "mixes the fields of a batch"),
    ],
)
def test_operator_that_measures_wrongly_is_named(
    function: Callable[[Tensor], Any], wanted: str
) -> None:
    with pytest.raises(InputError, match=wanted):
        Odd(function).measure(X, range(3))


@pytest.mark.parametrize(
    ("x", "seeds", "wanted"),
    [
        (X.long(), 3, "Odd expects 3 float fields, got integer fields"),
        (X, 1, r"Odd expects 1 float fields, got fields of shape \(3, 2, 4, 4\)"),
    ],
)
def test_fields_that_cannot_be_measured(x: Tensor, seeds: int, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        Odd(lambda x: x).measure(x, range(seeds))


@pytest.mark.parametrize(
    ("m", "seeds", "wanted"),
    [
        (X[:, :1].clone().fill_(torch.nan), 3, "A measurement is not finite"),
        (X[:2, :1], 3, r"measurement m.*\(3, \*\), got .*\(2, 1, 4, 4\)"),
        (X[:, :1, :3], 3, r"Select.predict\(y\).*\(3, 1, 3, 4\), got .*\(3, 1, 4, 4\)"),
    ],
)
def test_measurement_of_no_field_is_refused(m: Tensor, seeds: int, wanted: str) -> None:
    select = Select(1, [0], 2)
    assert solve(select, X[:, :1]).isfinite().all()
    with pytest.raises(InputError, match=wanted):
        solve(select, m, seeds)


def test_operator_that_broadcasts_in_a_solver_is_named() -> None:
    with pytest.raises(InputError, match=r"Odd.predict\(y\)"):
        solve(Odd(lambda x: x.mean(0, keepdim=True)), X)


@pytest.mark.parametrize("function", [lambda x: x.mean(), lambda x: x[:1], lambda x: (x, x)])
def test_constraint_that_judges_wrongly_is_named(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises(InputError, match=r"Rule.residual\(x\) must be a .* \(3, \*\)"):
        Rule(function)(X)
    loss = DPS(constraint=Rule(function), transition=DDIM(2))
    with pytest.raises(InputError, match=r"Rule\.residual"):
        solve(Select(1, [0], 2), X[:, :1], solver=loss)


def test_denoiser_of_another_shape_is_named() -> None:
    with pytest.raises(InputError, match=r"Flat.denoise.*\(3, 2, 4, 4\), got .*\(3, 32\)"):
        DPMSolver(4)(Flat(VPSchedule()), (2, 4, 4), range(3))
