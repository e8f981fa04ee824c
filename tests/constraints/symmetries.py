"""The groups of moves that the tests of symmetric fields go through."""

import pytest

from constraints import Periodic, Reflection, Rotation

Symmetry = Periodic | Reflection | Rotation


SYMMETRIES: list[Symmetry] = [
    Periodic(),
    Periodic([1, 3]),
    Periodic([2, 3]),
    Reflection([-1]),
    Reflection([-2]),
    Reflection([-1, -2]),
    Rotation(2),
    Rotation(4),
]


@pytest.fixture(params=SYMMETRIES, ids=lambda s: f"{type(s).__name__}{s.attributes()}")
def symmetry(request: pytest.FixtureRequest) -> Symmetry:
    return request.param
