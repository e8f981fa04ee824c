r"""Files that are the old ones or the new ones, never half of each.

A process can be killed at any moment. A file is therefore written as a part beside the place where
it will live, flushed to the disk, and only then given its name with `os.replace`, which a file
system does in one piece.
"""

__all__ = ["whole_file"]

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = re.compile(r"\..+\.(\d{1,9})\.part")  # of a file, by a process


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    r"""Returns the path of the part of a file, which the block writes. The part replaces the file
    when the block ends. If the block raises, the file stays as it was.

    The parts that dead processes left in the folder are removed.

    Arguments:
        path: The file. Its folder is made if it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".*.part"):
        if (match := PART.fullmatch(left.name)) and not _alive(int(match[1])):
            left.unlink(missing_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True
