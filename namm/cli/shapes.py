r"""Checks that the parts of a problem's file have the shapes that the file's format names."""

__all__ = ["check_keys", "check_stage", "check_texts"]

import re
from typing import Any

from .reader import refuse

VERBS = ("fit", "validate", "test", "predict", "report")


def check_keys(key: str, value: Any, at: str) -> dict[str, Any]:
    r"""Returns a value that must be a mapping.

    Arguments:
        key: The key of the value.
        value: The value.
        at: The key that knows its place in a file.

    Raises:
        CommandError: If the value is no mapping.
    """
    if not isinstance(value, dict):
        refuse(key, f"expected keys, got '{value}'", at)
    return value


def check_texts(key: str, value: Any, at: str) -> list[str]:
    r"""Returns a value that must be a text or a list of texts, as a list.

    Arguments:
        key: The key of the value.
        value: The value.
        at: The key that knows its place in a file.

    Raises:
        CommandError: If the value is neither.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        refuse(key, f"expected a name or a list of names, got '{value}'", at)
    return texts


def check_stage(key: str, entry: Any) -> None:
    r"""Checks the verb and the matrix of an entry under `stages`.

    Arguments:
        key: The key of the entry.
        entry: The entry.

    Raises:
        CommandError: If the entry has no known verb, if its matrix is no mapping of lists with a
            value each, or if the matrix and the key have different names in braces.
    """
    verb = entry.get("verb") if isinstance(entry, dict) else entry
    if not isinstance(entry, dict) or verb not in VERBS:
        mistake = f"expected {{verb: ...}} with one of {', '.join(VERBS)}, got '{verb}'"
        refuse(key, mistake, key, str(verb), VERBS)
    matrix = check_keys(f"{key}.matrix", entry.get("matrix", {}), key)
    for name, values in matrix.items():
        if not isinstance(values, list) or not values:
            refuse(f"{key}.matrix.{name}", f"expected a list of values, got '{values}'", name)
    if {*re.findall(r"{(.*?)}", key)} != {*matrix}:
        names = ", ".join(matrix) or "none"
        refuse(key, f"expected in braces the names of its matrix, which are: {names}", key)
