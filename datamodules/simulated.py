r"""Fields for training, simulated into a file on first use and read from the file ever after.

Field i of a simulation depends on the seed and on i alone, and the splits are three far-apart
ranges of one endless sequence of fields.
"""

__all__ = ["Coords", "SimulatedData"]

import abc
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constraints import Constraint, InputError, Key, PositiveInt, Seed, progress

from .base import FieldData, check_sizes
from .schema import compare, read_attributes, write_fields

CHUNK = 100  # fields between two signs of progress
ATTEMPTS = 10

Coords = dict[str, tuple[Sequence[float] | np.ndarray, str]]


class SimulatedData(FieldData, abc.ABC):
    r"""Base of the data modules that simulate their file. A subclass defines `draw`, `coords` and
    `describe`.

    Arguments:
        constraint: The constraint that the fields satisfy.
        file: The file of the fields, of schema `namm-field/1`. It is simulated if it is missing.
        sizes: The number of fields to simulate for each of `train`, `val` and `test`. Missing for
            a file that is taken as it is.
        seed: The seed of the simulation. The order of training is keyed by the seed of the model.
        kwargs: The arguments of `FieldData`.

    Raises:
        InputError: If the sizes name no split, or are not positive.
    """

    floor: float = 1e-6  # the largest distance to the constraint a simulated field may have
    # the advice for a field that is not finite however often it is drawn
    remedy: str = "the solver is unstable with these parameters, give it smaller steps"
    # the place of each split in the sequence
    starts: Mapping[str, int] = {"train": 0, "val": 2**40, "test": 2**41}

    def __init__(
        self,
        constraint: Constraint,
        file: str,
        sizes: dict[str, PositiveInt] | None = None,
        seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, file, seed=seed, **kwargs)
        self.sizes = sizes or {}
        check_sizes("sizes", self.sizes, tuple(self.starts))

    @abc.abstractmethod
    def draw(self, keys: Sequence[Key]) -> Tensor:
        r"""Simulates one field for each key, which must depend on nothing else.

        Arguments:
            keys: The B keys, for `constraints.noise`.

        Returns:
            The fields, with shape `(B, C, *S)`, in the precision in which they were computed.
            Fields that are not finite are drawn again, with another key.
        """

    @abc.abstractmethod
    def coords(self) -> Coords:
        r"""Returns the coordinates along each axis of S, in order, and their units."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        r"""Returns the attributes of a simulated file: `axes`, `channels`, `solver`, `units`, and
        all other values that the fields depend on."""

    def attributes(self) -> dict[str, Any]:
        r"""Returns the attributes of the file, or of the file that would be simulated."""
        return super().attributes() or {**self.constraint.attributes(), **self.describe()}

    def simulate(
        self, n: int, seed: int, start: int = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        r"""Simulates fields of an endless sequence. The same field comes out alone, in any chunk
        and in any run.

        Arguments:
            n: The number of fields.
            seed: The seed of the sequence.
            start: The position in the sequence from which the fields are taken.
            dtype: The precision of the result; files are written in float32.

        Returns:
            The fields, with shape `(n, C, *S)`.
        """
        return self._simulate(n, seed, start)[0].to(dtype)

    @torch.no_grad()
    def _simulate(self, n: int, seed: int, start: int) -> tuple[Tensor, int]:
        def draw(rows: list[int], attempt: int) -> Tensor:
            return self.draw([(seed, "field", start + i, attempt) for i in rows])

        x, redrawn = draw(list(range(n)), 0), 0
        for attempt in count(1):
            bad = (~torch.isfinite(x).flatten(1).all(dim=1)).nonzero().flatten().tolist()
            if not bad:
                break
            if attempt == ATTEMPTS:
                where = f"Field {start + bad[0]} of seed {seed}"
                raise InputError(f"{where} is not finite in {ATTEMPTS} draws: {self.remedy}.")
            x[bad] = draw(bad, attempt)
            redrawn += len(bad)
        return x, redrawn

    def prepare_data(self) -> None:
        r"""Simulates the file if it is missing. Otherwise checks that a file of this project was
        simulated with these arguments."""
        wanted = {
            **self.constraint.attributes(),
            **self.describe(),
            "seed": self.seed,
            "sizes": self.sizes,
        }
        if Path(self.file).exists():
            found = read_attributes(self.file)
            if self.sizes and found.get("seed", -1) != -1:
                compare(self.file, found, wanted, "delete the file, or name another one")
            return
        if not self.sizes:
            raise InputError(
                f"There is no file '{self.file}', and `sizes` is empty: name a file that exists, "
                f"or say how many fields to simulate, such as train: 1000, val: 100."
            )
        source = f"simulated by {type(self).__name__}"
        attributes = {"source": source, **wanted, "data_floor": 0.0, "redrawn": 0}
        n = sum(self.sizes.values())
        with progress(n, f"Simulating {self.file}", "fields") as bar:
            chunks = {k: (n, self._chunks(k, attributes, bar)) for k, n in self.sizes.items()}
            write_fields(self.file, chunks, attributes, self.coords())

    def _chunks(self, split: str, attributes: dict[str, Any], bar: Any) -> Iterator[Tensor]:
        for row in range(0, self.sizes[split], CHUNK):
            n = min(CHUNK, self.sizes[split] - row)
            x, redrawn = self._simulate(n, self.seed, self.starts[split] + row)
            x = x.float()
            with torch.no_grad():
                distance = self.constraint(x).max().item()
            if not distance <= self.floor:
                raise InputError(
                    f"A simulated field is {distance:.1e} away from the constraint, but at most "
                    f"{self.floor:.0e} is allowed: the solver is unstable, give it smaller steps, "
                    f"or give the solver of the constraint."
                )
            attributes["data_floor"] = max(attributes["data_floor"], distance)
            attributes["redrawn"] += redrawn
            if attributes["redrawn"]:
                bar.set_postfix(redrawn=attributes["redrawn"])
            bar.update(n)
            yield x
