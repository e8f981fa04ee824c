r"""HDF5 files that are written whole, on a disk that may be full.

The HDF5 library ends the process where it cannot write the rest of a file while it closes the
file. It therefore writes through a file object that fails once, and not while the file is closed.
"""

__all__ = ["whole_hdf5"]

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from .files import whole_file


class Disk(io.FileIO):
    r"""Creates a file that raises the first error of the disk, unless it is closing, and takes
    every write after the error without writing.

    Arguments:
        path: The path of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.closing = False
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        n = len(rest)

        def write() -> None:
            nonlocal rest
            while rest:
                rest = rest[super(Disk, self).write(rest) :]

        self._attempt(write)
        return n

    def truncate(self, size: int | None = None) -> int:
        self._attempt(lambda: super(Disk, self).truncate(size))
        return self.tell() if size is None else size

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except OSError as error:
            self.error = error
            if not self.closing:
                raise


@contextmanager
def whole_hdf5(path: str | Path) -> Iterator[h5py.File]:
    r"""Opens an HDF5 file for writing. The file replaces `path` when the block ends. If the block
    raises, or if the disk is full, `path` stays as it was.

    Arguments:
        path: The file. Its folder is made if it is missing.

    Raises:
        OSError: If the disk does not take the file. The error names the file.
    """
    with whole_file(path) as part, Disk(part) as disk:
        try:
            with h5py.File(disk, "w") as file:
                try:
                    yield file
                finally:
                    disk.closing = True
        finally:
            if disk.error is not None:
                raise OSError(disk.error.errno, disk.error.strerror, str(path)) from None
