r"""Fields for training: simulated once into a file, read from it ever after.

A data module names a file. Where it does not exist it is simulated; where it exists, made by this
project or not, it must fit the constraint. Field i of a simulation depends on the seed and on i
alone, and the splits are three far-apart ranges of one endless sequence of fields.
"""

__all__ = ["FieldData"]

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from constraints import Constraint, InputError

from .dataset import FieldDataset
from .loaders import KeyedData
from .schema import check_fits, compare, hash_fields, read_attributes, write_fields

NEEDED = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("train", "val"),
}
CHUNK = 500
ATTEMPTS = 10


class FieldData(KeyedData):
    r"""Creates the data module of a file of fields. A subclass that defines `draw`, `coords` and
    `describe` simulates the file if it is missing.

    After `setup`, `shape` is the shape `(C, *S)` of a field, `sha256` the hash of all fields, and
    `samples_space` what `mirror_samples` says of its mirror space, if anything.

    Arguments:
        constraint: The constraint that the fields satisfy.
        file: The file of the fields, of schema `namm-field/1`.
        sizes: The number of fields to simulate for each of `train`, `val` and `test`. Missing for
            a file that is taken as it is.
        seed: The seed of the simulation. The order of training is keyed by the seed of the model.
        batch_size: The number of fields in a batch, of each process.
        mirror_samples: A file with `/{split}/y`, the samples of a diffusion model to train on.
            Each batch of training and validation then also holds `y`.
        predict_sizes: How many of the first fields of `train` and `val` to go through in
            prediction; all if missing.
        num_workers: The number of processes that read fields; with 0 it is done by this one.
        in_memory: Whether to read all fields at once; if missing, where they take less than 2 GB.

    Raises:
        InputError: If the sizes name no split, or are not positive.
    """

    shape: tuple[int, ...]
    sha256: str
    samples_space: str | None
    floor: float = 1e-6  # the largest distance to the constraint a simulated field may have
    # what is said of a field that is not finite however often it is drawn
    remedy: str = "the solver is unstable with these parameters, give it smaller steps"
    # where each split starts in the sequence
    first: dict[str, int] = {"train": 0, "val": 2**40, "test": 2**41}

    def __init__(
        self,
        constraint: Constraint,
        file: str,
        sizes: dict[str, int] | None = None,
        seed: int = 0,
        batch_size: int = 16,
        mirror_samples: str | None = None,
        predict_sizes: dict[str, int] | None = None,
        num_workers: int = 0,
        in_memory: bool | None = None,
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        for name, counts, splits in (
            ("sizes", sizes or {}, tuple(self.first)),
            ("predict_sizes", predict_sizes or {}, NEEDED["predict"]),
        ):
            if wrong := {k: n for k, n in counts.items() if k not in splits or n < 1}:
                raise InputError(
                    f"`{name}` has {wrong}, but positive numbers for {' or '.join(splits)} are "
                    f"wanted."
                )
        self.constraint = constraint
        self.file = file
        self.sizes = sizes or {}
        self.mirror_samples = mirror_samples
        self.predict_sizes = predict_sizes or {}
        self.in_memory = in_memory
        self.fields: dict[str, FieldDataset] = {}

    def draw(self, keys: Sequence[tuple[int | str, ...]]) -> Tensor:
        r"""Simulates one field for each key, which must depend on nothing else.

        Arguments:
            keys: The B keys, for `constraints.noise`.

        Returns:
            The fields, with shape `(B, C, *S)`, in the precision in which they were computed.
            Those that are not finite are drawn again, with another key.
        """
        raise NotImplementedError

    def coords(self) -> dict[str, tuple[Sequence[float] | np.ndarray, str]]:
        r"""Returns the coordinates along each axis of S, in order, and their units."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        r"""Returns the attributes of a simulated file: `axes`, `channels`, `solver`, `units`, and
        whatever else the fields depend on."""
        raise NotImplementedError

    def simulate(
        self, n: int, seed: int, start: int = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        r"""Simulates fields of an endless sequence. The same field comes out alone, in any chunk
        and in any run.

        Arguments:
            n: The number of fields.
            seed: The seed of the sequence.
            start: The position of the first field in it.
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
                raise InputError(
                    f"Field {start + bad[0]} of seed {seed} is not finite in {ATTEMPTS} draws: "
                    f"{self.remedy}."
                )
            x[bad] = draw(bad, attempt)
            redrawn += len(bad)
        return x, redrawn

    def prepare_data(self) -> None:
        r"""Simulates the file if it is missing, and otherwise checks that it is the one asked for,
        if this project simulated it."""
        exists, kind = Path(self.file).exists(), type(self)
        if kind.draw is FieldData.draw:
            if self.sizes or not exists:
                raise InputError(
                    f"{kind.__name__} takes '{self.file}' as it is, and simulates nothing: give a "
                    f"file that exists, no `sizes`, or a class that simulates."
                )
            return
        asked = {
            **self.constraint.attributes(),
            **self.describe(),
            "seed": self.seed,
            "sizes": self.sizes,
        }
        if exists:
            found = read_attributes(self.file)
            if self.sizes and found.get("seed", -1) != -1:
                compare(self.file, found, asked, "delete the file, or name another one")
        elif self.sizes:
            source = f"simulated by {kind.__name__}"
            attributes = {"source": source, **asked, "data_floor": 0.0, "redrawn": 0}
            with tqdm(
                total=sum(self.sizes.values()), desc=f"Simulating {self.file}", unit=" fields"
            ) as bar:
                chunks = {k: (n, self._chunks(k, attributes, bar)) for k, n in self.sizes.items()}
                write_fields(self.file, chunks, attributes, self.coords())
        else:
            raise InputError(
                f"There is no file '{self.file}', and `sizes` is empty: name a file that exists, "
                f"or say how many fields to simulate, such as train: 1000, val: 100."
            )

    def _chunks(self, split: str, attributes: dict[str, Any], bar: tqdm) -> Iterator[Tensor]:
        for row in range(0, self.sizes[split], CHUNK):
            n = min(CHUNK, self.sizes[split] - row)
            x, redrawn = self._simulate(n, self.seed, self.first[split] + row)
            x = x.float()
            with torch.no_grad():
                distance = self.constraint(x).max().item()
            if not distance <= self.floor:
                raise InputError(
                    f"A simulated field is {distance:.1e} away from the constraint, but at most "
                    f"{self.floor:.0e} is wanted: the solver is unstable with these parameters, "
                    f"or not that of the constraint."
                )
            attributes["data_floor"] = max(attributes["data_floor"], distance)
            attributes["redrawn"] += redrawn
            if attributes["redrawn"]:
                bar.set_postfix(redrawn=attributes["redrawn"])
            bar.update(n)
            yield x

    def setup(self, stage: str) -> None:
        r"""Opens the splits that a stage needs, and checks that they fit the constraint.

        Arguments:
            stage: `fit`, `validate`, `test` or `predict`.
        """
        self.check(self.constraint)
        samples = self.mirror_samples if stage in ("fit", "validate") else None
        self.samples_space = read_attributes(samples).get("space") if samples else None
        self.fields = {
            split: FieldDataset(self.file, split, self.in_memory, samples)
            for split in NEEDED[stage]
        }
        self.shape = next(iter(self.fields.values())).shape
        self.sha256 = hash_fields(self.file)

    def check(self, constraint: Constraint) -> None:
        r"""Checks that the fields are of the kind that another constraint judges.

        Arguments:
            constraint: The constraint.

        Raises:
            InputError: If they are not.
        """
        check_fits(self.file, constraint)

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.fields["train"])

    def val_dataloader(self) -> DataLoader:
        return self.in_order(self.fields["val"])

    def test_dataloader(self) -> DataLoader:
        return self.in_order(self.fields["test"])

    def predict_dataloader(self) -> list[DataLoader]:
        r"""Returns the first fields of `train` and of `val`, in this order."""
        loaders = []
        for split in NEEDED["predict"]:
            have = len(self.fields[split])
            n = self.predict_sizes.get(split, have)
            if n > have:
                raise InputError(
                    f"`predict_sizes` asks for {n} fields of split '{split}', but '{self.file}' "
                    f"has {have}: ask for fewer."
                )
            loaders.append(self.in_order(Subset(self.fields[split], range(n))))
        return loaders
