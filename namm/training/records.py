r"""Reads the records that commands leave in run folders, which may be damaged."""

__all__ = ["damaged", "read_record"]

import json
from pathlib import Path
from typing import Any

from constraints import InputError


def read_record(file: Path, **kinds: type) -> dict[str, Any]:
    r"""Returns the content of a record.

    Arguments:
        file: The file, in JSON.
        kinds: The keys that the record must have, and the kinds of their values.

    Raises:
        InputError: If the file is no JSON mapping, or lacks a key.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise damaged(file, f"holds a {type(content).__name__} and no mapping")
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise damaged(file, f"has no {kind.__name__} '{key}'")
    return content


def damaged(file: Path, fault: str) -> InputError:
    r"""Returns the refusal of a file that a command has left."""
    return InputError(f"{file} is damaged: it {fault}. Move it away, and run its stage again.")
