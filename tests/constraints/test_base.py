"""Sums of constraints: their residuals, and the data that they fit."""

import pytest
import torch
from torch import Tensor

from constraints import (
    Burgers,
    Constraint,
    Distance,
    Given,
    InputError,
    Sum,
    TotalBrightness,
    take,
)
from tests.problems import Total


# sums
class Largest(Distance):
    """A constraint that has a distance but no residual."""

    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
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


def test_distance_is_a_residual_of_one_entry() -> None:
    x, both = torch.rand(2, 1, 8, 6), Sum([Total(), Largest()], [1.0, 2.0])

    assert torch.equal(both(x), Total()(x) + 2 * Largest()(x))
    assert torch.equal(Largest().residual(x)[:, 0], Largest()(x))
    torch.testing.assert_close(both.residual(x).abs().mean(dim=1), both(x))


def test_constraint_without_residual_names_both_ways() -> None:
    class Alone(Constraint):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().flatten(1).amax(dim=1)

    for cls in (Alone, Distance, Constraint):
        with pytest.raises(InputError, match=rf"{cls.__name__} .*`residual`.*`distance`"):
            cls()


def test_distance_that_defines_a_residual_is_refused() -> None:
    class Both(Largest):
        def residual(self, x: Tensor) -> Tensor:  # type: ignore[override, misc]
            return x

    with pytest.raises(InputError, match=r"Both is a Distance .* `distance` alone, .*Constraint"):
        Both()


class MeanLevel(Constraint):
    """Fields whose mean is the level of their sample."""

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        assert given is not None
        return x.flatten(1).mean(dim=1, keepdim=True) - given["level"]

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        return x - self.residual(x, given)[..., None, None]


class OldTotal(Total):
    """A constraint whose methods name the fields alone."""

    def residual(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().residual(x)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Scaled(Constraint):
    """A constraint with a parameter of its own in the place of `given`."""

    def residual(self, x: Tensor, scale: float = 2.0) -> Tensor:  # type: ignore[override]
        return scale * x


class Named(Distance):
    """A distance that takes the data of the samples by name, after a parameter of its own."""

    def distance(self, x: Tensor, scale: float = 2, *, given: Given | None = None) -> Tensor:
        assert given is not None
        return scale * (x.flatten(1) - given["level"]).abs().mean(dim=1)


def test_only_a_parameter_named_given_gets_the_data_of_the_samples() -> None:
    x, given = torch.rand(2, 1, 3, 3), {"level": torch.zeros(2, 1)}

    assert torch.equal(Scaled().residual(x, given), 2 * x)
    assert torch.equal(Scaled().residual(x, scale=3.0), 3 * x)
    assert torch.equal(Named()(x, given), 2 * x.flatten(1).mean(dim=1))
    assert torch.equal(Named().distance(x, given=given, scale=3.0), 3 * x.flatten(1).mean(dim=1))


def test_data_of_the_samples_reach_the_terms_that_name_them() -> None:
    x = torch.arange(24.0).view(4, 1, 2, 3)
    given = {
        "level": x.flatten(1).mean(dim=1, keepdim=True) - torch.tensor([[0.0], [1], [2], [3]])
    }
    both = Sum([MeanLevel(), OldTotal()])

    assert MeanLevel()(x, given).tolist() == [0, 1, 2, 3]
    assert torch.equal(both(x, given), MeanLevel()(x, given) + Total()(x))
    assert torch.equal(both.residual(x, given)[:, 1], 2 * OldTotal().residual(x, given)[:, 0])
    part = take(given, torch.tensor([2]))
    assert torch.equal(MeanLevel()(x[2:3], part), torch.tensor([2.0])) and take(None, [2]) is None


def test_projection_reports_what_is_left_and_how_far_a_field_moved() -> None:
    x = torch.arange(24.0).view(4, 1, 2, 3)
    given = {"level": torch.zeros(4, 1)}
    projection = MeanLevel().project(x, given)

    assert projection.x.mean(dim=(1, 2, 3)).tolist() == [0, 0, 0, 0]
    assert projection.report["distance"].tolist() == [0, 0, 0, 0]
    wanted = x.mean(dim=(1, 2, 3)) * 6**0.5
    torch.testing.assert_close(projection.report["moved"], wanted)
    with pytest.raises(InputError, match="Sum"):
        Sum([MeanLevel()]).project(x, given)


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
    with pytest.raises(ValueError, match=r"\b1\b.*2\.0"):
        Sum([Total()], [1.0, 2.0])
    with pytest.raises(ValueError, match="Sum"):
        Sum([])
