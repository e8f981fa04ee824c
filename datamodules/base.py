r"""Fields for training, read from a file."""

__all__ = ["FieldData", "check_sizes"]

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Subset

from constraints import Constraint, InputError, Natural, PositiveInt, Seed

from .dataset import FieldDataset
from .loaders import KeyedData
from .schema import check_fits, hash_fields, read_attributes, read_shape

NEEDED = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("train", "val"),
}


class FieldData(KeyedData):
    r"""Creates the data module of a file of fields. The file must fit the constraint.

    After `setup`, `shape` is the shape `(C, *S)` of a field, `sha256` the hash of all fields, and
    `samples_space` the mirror space that `mirror_samples` names, if it names one.

    Arguments:
        constraint: The constraint that the fields satisfy.
        file: The file of the fields, of schema `namm-field/1`.
        seed: The seed of the order of training, where the model has none.
        batch_size: The number of fields in a batch, of each process.
        mirror_samples: A file with `/{split}/y`, the samples of a diffusion model to train on.
            Each batch of training and validation then also holds `y`.
        predict_sizes: The number of fields of `train` and `val` that prediction goes through, from
            the start of each split; all if missing.
        num_workers: The number of processes that read fields; with 0 this process reads them.

    Raises:
        InputError: If `predict_sizes` names another split, or a number that is not positive.
    """

    shape: tuple[int, ...]
    sha256: str
    samples_space: str | None

    def __init__(
        self,
        constraint: Constraint,
        file: str,
        seed: Seed = 0,
        batch_size: PositiveInt = 16,
        mirror_samples: str | None = None,
        predict_sizes: dict[str, PositiveInt] | None = None,
        num_workers: Natural = 0,
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        self.constraint = constraint
        self.file = file
        self.mirror_samples = mirror_samples
        self.predict_sizes = predict_sizes or {}
        self.fields: dict[str, FieldDataset] = {}
        check_sizes("predict_sizes", self.predict_sizes, NEEDED["predict"])

    def attributes(self) -> dict[str, Any]:
        r"""Returns the attributes of the file; none if there is no file yet."""
        return read_attributes(self.file) if Path(self.file).is_file() else {}

    @property
    def boundary(self) -> dict[str, str] | None:
        r"""The boundary by axis, such as `{"x": "periodic", "t": "none"}`, in the order of the
        axes S; nothing if the attributes do not say the boundary of each axis."""
        attributes = self.attributes()
        axes, boundary = attributes.get("axes", []), attributes.get("boundary", {})
        return {axis: boundary[axis] for axis in axes} if axes and {*axes} <= {*boundary} else None

    @property
    def channels(self) -> int | None:
        r"""The number of channels C of a field; nothing if it is not known yet."""
        if Path(self.file).is_file():
            return read_shape(self.file)[0]
        attributes = self.attributes()
        states = attributes.get("frames", 1) if "packing" in attributes else 1
        return len(attributes["channels"]) * states if "channels" in attributes else None

    def setup(self, stage: str) -> None:
        r"""Opens the splits that a stage needs, and checks that the file fits the constraint.

        Arguments:
            stage: `fit`, `validate`, `test` or `predict`.
        """
        self.check(self.constraint)
        samples = self.mirror_samples if stage in ("fit", "validate") else None
        self.samples_space = read_attributes(samples).get("space") if samples else None
        self.fields = {
            split: FieldDataset(self.file, split, mirror_samples=samples)
            for split in NEEDED[stage]
        }
        self.shape = next(iter(self.fields.values())).shape
        self.sha256 = hash_fields(self.file)

    def check(self, constraint: Constraint) -> None:
        r"""Checks that the fields are of the kind that another constraint judges.

        Arguments:
            constraint: The constraint.

        Raises:
            InputError: If the fields are of another kind.
        """
        check_fits(self.file, constraint)

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.fields["train"])

    def val_dataloader(self) -> DataLoader:
        return self.in_order(self.fields["val"])

    def test_dataloader(self) -> DataLoader:
        return self.in_order(self.fields["test"])

    def predict_dataloader(self) -> list[DataLoader]:
        r"""Returns the loaders of `train` and of `val`, in this order."""
        loaders = []
        for split in NEEDED["predict"]:
            size = len(self.fields[split])
            n = self.predict_sizes.get(split, size)
            if n > size:
                wanted = f"`predict_sizes` asks for {n} fields of split '{split}'"
                raise InputError(f"{wanted}, but '{self.file}' has {size}: ask for fewer.")
            loaders.append(self.in_order(Subset(self.fields[split], range(n))))
        return loaders


def check_sizes(name: str, sizes: Mapping[str, int], splits: Collection[str]) -> None:
    r"""Raises an `InputError` unless all sizes are positive numbers of known splits."""
    if wrong := {k: n for k, n in sizes.items() if k not in splits or n < 1}:
        raise InputError(f"`{name}` has {wrong}: give positive numbers for {', '.join(splits)}.")
