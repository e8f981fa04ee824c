"""Operators that select: points, frames and rectangles."""

from typing import Any

import pytest
import torch

from constraints import InputError
from inverse import Mask, Select
from tests.inverse.draws import draw

# operators
SELECTIONS = [(-1, 3, 8), (-1, [0, 7], 8), (-2, [5, 1, 2], 6), (1, [0, 1, 3], 4)]


@pytest.mark.parametrize(("dim", "index", "size"), SELECTIONS)
def test_adjoint_and_pseudo_inverse(dim: int, index: Any, size: int) -> None:
    operator = Select(dim, index, size)
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    m = torch.randn_like(operator(x))

    torch.testing.assert_close((operator(x) * m).sum(), (x * operator.adjoint(m)).sum())
    assert operator.pinv(m).shape == x.shape
    assert torch.equal(operator(operator.pinv(m)), m)
    assert torch.equal(operator(operator.pinv(operator(x))), operator(x))
    back = operator.pinv(operator(x))
    assert torch.equal(operator.pinv(operator(back)), back)


def test_positions_are_kept_in_order() -> None:
    x = torch.arange(24.0).reshape(1, 1, 4, 6)

    assert torch.equal(Select(-1, 2, 6)(x), x[..., :2])
    assert torch.equal(Select(-2, [3, 0], 4)(x), x[:, :, [3, 0]])


@pytest.mark.parametrize("index", [[], 0, [0, 8], [-1], [1, 1], 9])
def test_positions_that_are_not_there_are_refused(index: Any) -> None:
    with pytest.raises(ValueError, match=r"Select.*\b8\b"):
        Select(-1, index, 8)


def test_field_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"axis -1.*\(2, 1, 8, 9\)"):
        Select(-1, 3, 8)(torch.zeros(2, 1, 8, 9))


# each against its own definition
def test_mask_sees_a_rectangle_or_all_but_it() -> None:
    x = draw(2, 3, 5, 6)
    seen, hidden = (Mask([5, 6], [1, 2, 3, 4], hidden) for hidden in (False, True))

    assert torch.equal(seen(x), x[..., 1:4, 2:6].flatten(-2))
    assert torch.equal(seen.pinv(seen(x)) + hidden.pinv(hidden(x)), x)
    assert not hidden.pinv(hidden(x))[..., 1:4, 2:6].any()
