r"""HDF5 files that are read as data: a file that refers to other files, or declares more than it
holds, is refused before anything of it is read."""

__all__ = ["open_fields", "open_file"]

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py

from constraints import InputError

COMPRESSION = 100  # the largest ratio of declared bytes to bytes of the file


def open_file(path: str | Path) -> h5py.File:
    r"""Returns a file, opened for reading.

    Arguments:
        path: The file.

    Raises:
        InputError: If it does not exist, is no HDF5 file, refers to another file by an external
            link, a virtual dataset or external storage, or declares more bytes than it can hold.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no file '{path}': check the name.")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            foreign, declared, packed = _declared(file)
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"'{path}' is no HDF5 file that can be read: {error}.") from error
        size = Path(path).stat().st_size
        if foreign or declared > size * (COMPRESSION if packed else 1):
            found = f"refers to another file at /{foreign[0]}" if foreign else ""
            found = found or f"declares {declared} bytes of data, but has {size} bytes"
            raise InputError(f"'{path}' {found}: copy the fields into one whole file.")
        stack.pop_all()
    return file


@contextmanager
def open_fields(path: str | Path) -> Iterator[h5py.File]:
    r"""Opens a file for reading, as `open_file` does, and closes it."""
    with open_file(path) as file:
        yield file


def _declared(file: h5py.File) -> tuple[list[str], int, bool]:
    r"""Returns the names that refer to other files, the bytes that all datasets declare, and
    whether a dataset is compressed."""
    foreign: list[str] = []
    datasets: list[h5py.Dataset] = []

    def link(name: str, found: Any) -> None:
        if isinstance(found, h5py.ExternalLink):
            foreign.append(name)

    def item(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            datasets.append(found)
            if found.is_virtual or found.external:
                foreign.append(name)

    file.visititems_links(link)
    file.visititems(item)  # each object once, however many links lead to it
    declared = sum((data.size or 0) * data.dtype.itemsize for data in datasets)
    packed = any(data.id.get_create_plist().get_nfilters() for data in datasets)
    return foreign, declared, packed
