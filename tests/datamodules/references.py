"""A solver and an evaluation for fields that others have made."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from inverse import Inverse, Operator, Solver
from mdm import Ancestral, Denoiser, Schedule
from namm import Mirror
from tests.problems import make_trainer, tiny_denoiser


class Late(Ancestral):
    """The last 3 steps of the published chain."""

    def times(self, schedule: Schedule) -> Tensor:
        return super().times(schedule)[-4:]


def solve(
    folder: Path,
    data: Any,
    operator: Operator,
    solver: Solver,
    denoiser: Denoiser | None = None,
    mirror: Mirror | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """The rows of the results."""

    denoiser = denoiser or tiny_denoiser()
    stage = Inverse(denoiser, data.constraint, operator, solver, mirror, **options)
    make_trainer(folder).test(stage, data, verbose=False)
    return json.loads((folder / "results.json").read_text())["rows"]


def value(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[k] == v for k, v in wanted.items()))
    return row
