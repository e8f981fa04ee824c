"""HDF5 files on a full disk: the error is raised, the old file stays, and the process goes on."""

import errno
from pathlib import Path

import h5py
import numpy as np
import pytest

from constraints import whole_hdf5
from tests.disk import small_disk


def fill(path: Path, chunks: bool | None = None, rows: int = 16) -> None:
    x = np.random.default_rng(0).random((200, 1, 16, 16)).astype("f4")  # 205 kB
    with whole_hdf5(path) as file:
        file.attrs["kind"] = "random"
        data = file.create_dataset("x", shape=x.shape, dtype="f4", chunks=chunks)
        for row in range(0, len(x), rows):
            data[row : row + rows] = x[row : row + rows]
        file["last"] = x[:1]


@pytest.mark.parametrize("chunks", [None, True], ids=["contiguous", "chunks"])
@pytest.mark.parametrize("size", [100, 3_000, 100_000, 204_000, 206_500])
def test_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, chunks: bool | None, size: int
) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"before")
    with small_disk(size), pytest.raises(OSError) as caught:
        fill(path, chunks)

    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]
    assert path.read_bytes() == b"before"


def test_file_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    for name, rows in (("a", 16), ("b", 200)):
        fill(tmp_path / name, rows=rows)
    with h5py.File(tmp_path / "a") as file:
        assert file["x"].shape == (200, 1, 16, 16) and file.attrs["kind"] == "random"
        assert np.array_equal(file["x"][:1], file["last"][:])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_error_of_the_block_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(KeyError), whole_hdf5(tmp_path / "a") as file:
        file["x"] = np.zeros(3)
        raise KeyError("of the caller")
    assert (tmp_path / "a").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
