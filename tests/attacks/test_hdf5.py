"""HDF5 files of strangers: nothing outside of the file is read, and no more than it holds."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from constraints import InputError
from datamodules import FieldDataset, check_fits, hash_fields, read_attributes, read_fields
from datamodules.schema import read_shape
from namm.cli.main import main
from tests.attacks.planted import stranger
from tests.commands import FILES
from tests.datamodules.sources import Anything, plain

__all__ = ["stranger"]

X = np.arange(24, dtype="<f4").reshape(6, 1, 4)
ROWS = 10**9


def linked(file: h5py.File) -> None:
    file["train/x"] = h5py.ExternalLink("secret.h5", "/train/x")


def linked_group(file: h5py.File) -> None:
    file["train"] = h5py.ExternalLink("secret.h5", "/train")


def linked_beside(file: h5py.File) -> None:
    file["train/x"] = X
    file["coords/x"] = h5py.ExternalLink("secret.h5", "/train/x")


def linked_deep(file: h5py.File) -> None:
    file["train/x"] = h5py.SoftLink("/a/b/c/x")
    file["a/b/c/x"] = h5py.ExternalLink("secret.h5", "/train/x")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource("secret.h5", "/train/x", X.shape)
    file.create_virtual_dataset("train/x", layout)


def virtual_inside(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((ROWS, 1, 4), X.dtype)
    layout[:6] = h5py.VirtualSource(".", "/other", X.shape)
    file["other"] = X
    file.create_virtual_dataset("train/x", layout)


def external(file: h5py.File) -> None:
    file.create_dataset("train/x", X.shape, X.dtype, external=[("secret.raw", 0, X.nbytes)])


def external_elsewhere(file: h5py.File) -> None:
    file["train/x"] = X
    file.create_dataset("val/x", X.shape, X.dtype, external=[("/etc/passwd", 0, X.nbytes)])


def endless(file: h5py.File) -> None:
    file.create_dataset("train/x", (ROWS, 1, 4), "<f4")


def endless_in_chunks(file: h5py.File) -> None:
    file.create_dataset("train/x", (ROWS, 1, 4), "<f4", chunks=(1000, 1, 4))[:6] = X


def endless_compressed(file: h5py.File) -> None:
    data = file.create_dataset("train/x", (ROWS, 1, 4), "<f4", chunks=(1000, 1, 4), compression=9)
    data[:6] = X


def bomb(file: h5py.File) -> None:
    shape = (400, 1, 4096)
    file.create_dataset("train/x", data=np.zeros(shape, "<f4"), chunks=shape, compression=9)


def many_small(file: h5py.File) -> None:
    for k in range(40):
        file.create_dataset(f"s{k}/x", (20_000, 1, 4), "<f4")


PLANTED: dict[str, Callable[[h5py.File], None]] = {
    f.__name__: f
    for f in (linked, linked_group, linked_beside, linked_deep, virtual, virtual_inside)
}
PLANTED |= {f.__name__: f for f in (external, external_elsewhere, endless, endless_in_chunks)}
PLANTED |= {f.__name__: f for f in (endless_compressed, bomb, many_small)}


def plant(name: str, split: str = "x") -> str:
    """Writes a file of a stranger, with the fields of each split as `x` or as `y`."""

    with h5py.File("secret.h5", "w") as file:
        file["train/x"] = X
    Path("secret.raw").write_bytes(X.tobytes())
    with h5py.File("evil.h5", "w") as file:
        file.attrs["schema"] = "namm-field/1"
        PLANTED[name](file)
        if split == "y" and "train" in file and file.get("train", getlink=True):
            file["train/y"] = h5py.SoftLink("/train/x")
    return "evil.h5"


READERS: dict[str, Callable[[str], Any]] = {
    "fields": lambda path: read_fields(path, "train", 2),
    "dataset": lambda path: FieldDataset(path, "train"),
    "attributes": read_attributes,
    "shape": read_shape,
    "hash": hash_fields,
    "fit": lambda path: check_fits(path, Anything()),
    "data module": lambda path: plain(Path(path)).setup("fit"),
    "boundary": lambda path: plain(Path(path)).boundary,
    "channels": lambda path: plain(Path(path)).channels,
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("reader", READERS)
def test_file_of_a_stranger_is_refused_soon(reader: str, name: str, stranger: Path) -> None:
    path = plant(name)
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"refers to another file|declares \d+ bytes"):
        READERS[reader](path)
    assert time.monotonic() - begun < 5  # 10^9 rows would take minutes


@pytest.mark.parametrize("name", PLANTED)
def test_mirror_samples_of_a_stranger_are_refused(name: str, stranger: Path) -> None:
    with h5py.File("whole.h5", "w") as file:
        file.attrs["schema"] = "namm-field/1"
        file["train/x"] = file["val/x"] = X
    data = plain(Path("whole.h5"), mirror_samples=plant(name, "y"))
    with pytest.raises(InputError, match=r"evil\.h5"):
        data.setup("fit")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("virtual", "external")]


@pytest.mark.parametrize("name", ["linked", "endless", *SLOW])
def test_file_of_a_stranger_is_refused_by_a_command(
    name: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plant(name)
    for argv in (
        ["fit", *FILES, f"--data.file={path}"],
        ["fit", *FILES, f"--data.mirror_samples={path}"],
        ["check", "Burgers", f"--data={path}"],
    ):
        assert main(argv) == 1
        assert "evil.h5" in capsys.readouterr().err


def test_links_inside_of_a_file_are_followed(stranger: Path) -> None:
    with h5py.File("a.h5", "w") as file:
        file["hidden/x"] = X
        file["train"] = h5py.SoftLink("/hidden")
        file["val/x"] = file["hidden/x"]  # a hard link
        file["loop"] = h5py.SoftLink("/loop")
        file["hidden/again"] = file["hidden"]
    for split in ("train", "val"):
        assert torch.equal(read_fields("a.h5", split, 6), torch.from_numpy(X))


def test_compressed_fields_are_read(stranger: Path) -> None:
    x = np.tile(X, (100, 1, 50))
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("train/x", data=x, chunks=(10, 1, 200), compression=9, shuffle=True)
    assert Path("a.h5").stat().st_size < x.nbytes / 4
    assert torch.equal(read_fields("a.h5", "train", 600), torch.from_numpy(x))


def test_file_is_checked_in_each_process(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.dataset.IN_MEMORY", 0)
    with h5py.File("evil.h5", "w") as file:
        file["train/x"] = X
    fields = FieldDataset("evil.h5", "train")
    plant("linked")  # the file is another one when it is opened again
    with pytest.raises(InputError, match="another file"):
        fields.__getitems__([0])
