"""Small data modules and files, which the tests of this package share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constraints import Burgers, Distance, Given, noise
from datamodules import BurgersData, SimulatedData, write_fields

SHORT = {"points": 16, "frames": 5}


class Tiny(SimulatedData):
    """White noise on 3 points, of which some fields are not finite when they are first drawn."""

    bad: tuple[int, ...] = ()

    def draw(self, keys: Sequence[tuple[int | str, ...]]) -> Tensor:
        x = noise(keys, (1, 3))
        for row, (_, _, index, attempt) in enumerate(keys):
            if index in self.bad and attempt == 0:
                x[row, 0, 1] = float("nan")
        return x

    def coords(self) -> dict[str, tuple[Sequence[float] | np.ndarray, str]]:
        return {"x": ([0.0, 0.5, 1.0], "length")}

    def describe(self) -> dict[str, Any]:
        return {"axes": ["x"], "channels": ["u"]}


class Anything(Distance):
    """Satisfied by all fields."""

    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
        return x.new_zeros(len(x))


def burgers(path: Path, **kwargs: Any) -> BurgersData:
    options = {"sizes": {"train": 5, "val": 3}, **SHORT, **kwargs}
    return BurgersData(options.pop("constraint", Burgers()), file=str(path), **options)


def write(path: Path, **sizes: int) -> Path:
    """Writes a file whose field i of a split is filled with the number i."""
    fields = {
        split: torch.arange(n).float().view(n, 1, 1).expand(n, 1, 3) for split, n in sizes.items()
    }
    write_fields(path, fields, {}, {})
    return path


def plain(path: Path, **kwargs: Any) -> Tiny:
    return Tiny(Anything(), file=str(path), sizes={}, **kwargs)
