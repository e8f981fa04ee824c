"""The check of numbers: intervals are open and closed as they are written."""

import math

import pytest

from constraints import InputError, check_range


@pytest.mark.parametrize(
    ("interval", "number", "inside"),
    [
        ("[0, inf)", 0, True),
        ("[0, inf)", math.inf, False),
        ("(0, 1]", 0, False),
        ("(0, 1]", 1, True),
        ("[0, inf)", math.nan, False),
        ("[1, 3)", 3, False),
    ],
)
def test_the_ends_of_an_interval_belong_to_it_as_written(
    interval: str, number: float, inside: bool
) -> None:
    if inside:
        check_range(object(), interval, number=number)
    else:
        with pytest.raises(InputError):
            check_range(object(), interval, number=number)
