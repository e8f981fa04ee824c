r"""Grey images from a folder of the user's own."""

__all__ = ["ImageData"]

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from constraints import (
    Constraint,
    InputError,
    Key,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    check_range,
    generator,
)

from .simulated import Coords, SimulatedData

SUFFIXES = (".jpeg", ".jpg", ".npy", ".png")
UNREADABLE = (
    EOFError, OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError
)  # fmt: skip


class ImageData(SimulatedData):
    r"""Creates fields from the images of a folder, in an order shuffled by the seed: images of
    `train`, then images of `val`, then images of `test`. A field has shape `(1, size, size)`.

    PNG and JPEG are read as grey, and `.npy` as one array of shape `(H, W)`. The top row of an
    image is the last row of a field: y ascends. The square in the middle of an image is averaged
    over areas to `size` pixels a side, and scaled to a minimum of 0 and a maximum of 1, or else to
    a total brightness. The file of fields is written once. It can be read without the folder, but
    not with a folder whose images have other names or sizes in bytes.

    Arguments:
        constraint: The constraint, which every image must satisfy.
        folder: The folder. Files of other kinds and folders inside are passed over.
        size: The number of pixels along each side.
        total: The total brightness to which images are scaled. If missing, the range is [0, 1].
        tolerance: The largest distance to the constraint that an image may have. If missing, it
            leaves room for rounding to float32: 1e-5, or 2^-23 of a total.
        kwargs: The arguments of `SimulatedData`.

    Raises:
        InputError: If the size, the total or the tolerance is not positive, or if the constraint
            cannot judge images of this size.
    """

    def __init__(
        self,
        constraint: Constraint,
        folder: str,
        size: PositiveInt,
        total: PositiveFloat | None = None,
        tolerance: NonNegativeFloat | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, **kwargs)
        numbers = {"size": size, "total": total, "tolerance": tolerance}
        given = {name: number for name, number in numbers.items() if number is not None}
        check_range(self, "(0, inf)", **given)
        constraint.check_shape(torch.empty(1, 1, size, size))
        self.folder = folder
        self.size = size
        self.total = total
        if tolerance is None:
            # the error of a sum of numbers rounded to float32 is below this share of the sum
            tolerance = 1e-5 if total is None else 2**-23 * total
        self.floor = tolerance
        counts = [self.sizes.get(split, 0) for split in self.starts]
        self.starts = {k: sum(counts[:i]) for i, k in enumerate(self.starts)}

    def draw(self, keys: Sequence[Key]) -> Tensor:
        names = self._names()
        fields = []
        for seed, _, index, _ in keys:
            order = torch.randperm(len(names), generator=generator(seed, "images"))
            name = names[order[int(index)]]
            x = self._prepare(_read(name), name)
            distance = self.constraint(x.float().unsqueeze(0)).item()
            if not distance <= self.floor:
                raise InputError(
                    f"The image '{name}' is {distance:.1e} away from the constraint, more than "
                    f"the tolerance {self.floor:.0e}: leave it out, or give another tolerance."
                )
            fields.append(x)
        return torch.stack(fields)

    def _names(self) -> list[Path]:
        folder, wanted = Path(self.folder), sum(self.sizes.values())
        if not folder.is_dir():
            raise InputError(f"There is no folder '{folder}': check the name of the images.")
        names = _list(folder)
        if len(names) < wanted:
            kinds = ", ".join(SUFFIXES)
            raise InputError(
                f"`sizes` needs {wanted} images ({kinds}), '{folder}' has {len(names)}."
            )
        return names

    def _prepare(self, image: Tensor, name: Path) -> Tensor:
        side = min(image.shape)
        if side < self.size:
            sides = " x ".join(map(str, image.shape))
            raise InputError(f"The image '{name}' has {sides} pixels, but size is {self.size}.")
        row, column = ((n - side) // 2 for n in image.shape)
        square = image[row : row + side, column : column + side]
        weights = _areas(side, self.size)
        x = weights @ square @ weights.T
        # averages of equal numbers may differ by this much
        rounding = 4 * side * torch.finfo(x.dtype).eps * square.abs().max()
        if x.max() - x.min() <= rounding or (self.total is not None and not x.sum() > 0):
            raise InputError(f"The image '{name}' is blank: leave it out.")
        if self.total is not None:
            return (self.total * x / x.sum()).unsqueeze(0)
        return ((x - x.min()) / (x.max() - x.min())).unsqueeze(0)

    def coords(self) -> Coords:
        pixels = np.arange(self.size)
        return {"y": (pixels, "pixel"), "x": (pixels, "pixel")}

    def describe(self) -> dict[str, Any]:
        scaled = "the range [0, 1]" if self.total is None else f"a total of {self.total:g}"
        folder = Path(self.folder)
        return {
            "problem": "images",
            **({"images": _identify(_list(folder))} if folder.is_dir() else {}),
            "axes": ["y", "x"],
            "channels": ["brightness"],
            "boundary": {"y": "none", "x": "none"},
            "size": self.size,
            "solver": f"the square in the middle averaged to {self.size} pixels a side, scaled to "
            f"{scaled}",
            "source": "read from a folder of images",
            "units": "dimensionless",
        }


def _list(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())


def _identify(names: Sequence[Path]) -> str:
    r"""Returns the number of images, and a hash of their names and sizes in bytes."""
    sizes = "".join(f"{name.name} {name.stat().st_size}\n" for name in names)
    return f"{len(names)} of hash {hashlib.sha256(sizes.encode()).hexdigest()[:12]}"


def _read(name: Path) -> Tensor:
    r"""Returns the pixels of an image in float64, with shape `(H, W)`: the last row is the top, as
    y ascends."""
    try:
        if name.suffix.lower() == ".npy":
            pixels = np.load(name, mmap_mode="r", allow_pickle=False)
        else:
            with Image.open(name) as image:
                # more than 8 bits would be cut off by the conversion
                deep = image.mode.startswith(("I", "F"))
                pixels = np.asarray(image if deep else image.convert("L"))
        x = torch.from_numpy(pixels.astype(np.float64))
    except UNREADABLE as error:
        raise InputError(f"The image '{name}' cannot be read ({error}): leave it out.") from error
    if x.ndim != 2 or not x.numel():
        raise InputError(f"The image '{name}' has shape {tuple(x.shape)}, but not (H, W).")
    if not torch.isfinite(x).all():
        raise InputError(f"The image '{name}' has NaN or inf: leave it out.")
    return x.flip(0)


def _areas(n: int, size: int) -> Tensor:
    r"""Returns the matrix of averages over `size` equal parts of n pixels, `(size, n)`."""
    edges = torch.arange(size + 1, dtype=torch.float64).unsqueeze(1) * n / size
    pixels = torch.arange(n, dtype=torch.float64)
    # how much of each pixel lies before each edge
    before = (edges - pixels).clamp(0, 1)
    return before.diff(dim=0) * size / n
