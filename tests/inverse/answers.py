"""A chain that keeps its last noise, and ways to solve a small inverse problem."""

from typing import Any

from torch import Tensor

from constraints import noise
from inverse import Select, Solver
from mdm import DDIM, Ancestral, Result, Schedule
from tests.problems import tiny_denoiser


class Late(Ancestral):
    """The last 20 steps of the published chain."""

    def times(self, schedule: Schedule) -> Tensor:
        return super().times(schedule)[-21:]


TRANSITIONS = {"clean": DDIM(12), "published": Late()}


def measured(n: int, std: float = 0.2) -> tuple[Select, Tensor]:
    """The first 3 of 8 frames of n fields."""

    operator = Select(-1, 3, 8, std)
    x = noise([("truth", i) for i in range(n)], (1, 8, 8))
    return operator, operator.measure(x, range(n))


def solve(solver: Solver, n: int = 3, **options: Any) -> Result:
    operator, m = measured(n)
    denoiser = options.pop("denoiser", None) or tiny_denoiser()
    operator = options.pop("operator", operator)
    return solver(denoiser, operator, m, (1, 8, 8), range(100, 100 + n))
