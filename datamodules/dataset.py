r"""The fields of one split of a file, as items of a data set."""

__all__ = ["FieldDataset", "read_fields"]

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from constraints import InputError

from .hdf5 import open_fields, open_file
from .schema import check_finite

IN_MEMORY = 2 * 10**9  # bytes


class Rows:
    r"""Creates the rows of one dataset of a file, in memory or read on access. The file is
    opened once in each process.

    Arguments:
        path: The file.
        split: The split.
        name: The name of the dataset in the split.
        limit: The bytes below which all rows are read at once.
    """

    def __init__(self, path: str | Path, split: str, name: str, limit: int) -> None:
        self.path, self.name = path, f"{split}/{name}"
        self.memory: Tensor | None = None
        self.opened: tuple[int, h5py.File] | None = None
        with open_fields(path) as file:
            if self.name not in file:
                splits = ", ".join(sorted(set(file) - {"coords"})) or "none"
                raise InputError(f"'{path}' has no /{self.name}, which is needed, but {splits}.")
            data = file[self.name]
            if data.ndim < 2 or len(data) == 0:
                raise InputError(f"'{path}' has no field in /{self.name} of shape {data.shape}.")
            self.shape: tuple[int, ...] = data.shape
            if data.nbytes < limit:
                self.memory = torch.from_numpy(np.asarray(data, dtype=np.float32))
        if self.memory is not None:
            check_finite(self.memory, range(len(self.memory)), path, self.name)

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        if self.memory is not None:
            return self.memory[rows]
        if self.opened is None or self.opened[0] != os.getpid():
            self.opened = (os.getpid(), open_file(self.path))
        data = self.opened[1][self.name]
        # one by one: fancy indexing is no faster, and far slower in a file with chunks
        read = {i: data[i] for i in sorted(set(rows))}
        x = torch.from_numpy(np.stack([read[i] for i in rows]).astype(np.float32, copy=False))
        check_finite(x, rows, self.path, self.name)
        return x

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None}


class FieldDataset(Dataset):
    r"""Creates the fields of one split. An item holds the field `x`, with shape `(C, *S)`, its
    position `index` in the split, and, given mirror samples, `y`. Fields that take less than 2 GB
    are read at once.

    Arguments:
        path: The file, of schema `namm-field/1`.
        split: The name of the split.
        mirror_samples: A file with `/{split}/y`, with shape `(M, C, *S)`: sample i mod M comes
            with field i.
    """

    def __init__(
        self, path: str | Path, split: str, mirror_samples: str | Path | None = None
    ) -> None:
        self.x = Rows(path, split, "x", IN_MEMORY)
        self.y = Rows(mirror_samples, split, "y", IN_MEMORY) if mirror_samples else None
        self.shape: tuple[int, ...] = self.x.shape[1:]

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        items = [{"x": x, "index": i} for x, i in zip(self.x[rows], rows, strict=True)]
        if self.y is not None:
            samples = self.y[[i % self.y.shape[0] for i in rows]]
            items = [{**item, "y": y} for item, y in zip(items, samples, strict=True)]
        return items


def read_fields(path: str | Path, split: str, n: int) -> Tensor:
    r"""Returns the first fields of a split, with shape `(B, C, *S)`, and reads no others.

    Arguments:
        path: The file, of schema `namm-field/1`.
        split: The name of the split.
        n: The largest number of fields.
    """
    rows = Rows(path, split, "x", limit=0)
    return rows[range(min(n, rows.shape[0]))]
