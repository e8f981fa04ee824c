"""Sums of constraints: their residuals, and the data that they fit."""

import pytest
import torch
from torch import Tensor

from constraints import Burgers, Constraint, InputError, Sum, TotalBrightness
from tests.problems import Total


# sums
class Largest(Constraint):
    """A constraint that has a distance but no residual."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().flatten(1).amax(dim=1)


def test_sum_is_the_weighted_sum_of_its_terms() -> None:
    terms: list[Constraint] = [Burgers(), Total(2.0), Burgers("crank_nicolson")]
    x = torch.rand(5, 1, 8, 6, dtype=torch.float64)
    both = Sum(terms, [0.5, 2.0, 3.0])
    expected = 0.5 * terms[0](x) + 2 * terms[1](x) + 3 * terms[2](x)

    torch.testing.assert_close(both(x), expected, rtol=1e-14, atol=0)
    # terms of 40, 1 and 40 entries, stacked, mean the same
    assert both.residual(x).shape == (5, 81)
    torch.testing.assert_close(both.residual(x).abs().mean(dim=1), expected, rtol=1e-14, atol=0)


def test_sum_weighs_each_term_with_one_by_default() -> None:
    x = torch.rand(2, 1, 8, 6)

    assert torch.equal(Sum([Burgers(), Total()])(x), Burgers()(x) + Total()(x))


def test_sum_of_a_term_without_residual_has_a_distance() -> None:
    x, both = torch.rand(2, 1, 8, 6), Sum([Total(), Largest()], [1.0, 2.0])

    assert torch.equal(both(x), Total()(x) + 2 * Largest()(x))
    with pytest.raises(NotImplementedError, match="Largest"):
        both.residual(x)


def test_sum_passes_on_what_its_terms_ask_of_a_file() -> None:
    both = Sum([Total(), Burgers(viscosity=0.1)])

    assert Total().attributes() == {}
    assert both.attributes() == Burgers(viscosity=0.1).attributes()
    with pytest.raises(InputError, match="Burgers"):
        both.check_shape(torch.zeros(1, 2, 8, 8))


def test_sum_of_terms_that_ask_for_different_files_is_refused() -> None:
    both = Sum([TotalBrightness(100.0), TotalBrightness(120.0)])

    with pytest.raises(InputError, match=r"100\.0.*120\.0"):
        both.attributes()


def test_sum_refuses_other_numbers_of_weights() -> None:
    with pytest.raises(ValueError, match=r"\b2\b.*\b1\b"):
        Sum([Total()], [1.0, 2.0])
    with pytest.raises(ValueError, match="Sum"):
        Sum([])
