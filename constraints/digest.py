r"""The hash that a file of weights holds of its own content.

The hash shows damage, such as a flipped bit. It shows no intent: whoever writes a file writes its
hash as well.
"""

__all__ = ["check_hash", "hash_content"]

import hashlib
import json
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError


def hash_content(content: Any) -> str:
    r"""Returns the SHA-256 of the tensors and of the plain data of a content: of their names, in
    sorted order, their types, their shapes and their bytes.

    Arguments:
        content: Dictionaries, lists and tuples of tensors, numbers, text and nothing. A value of
            another kind does not enter the hash.
    """
    digest = hashlib.sha256()
    for part in _parts("", content):
        digest.update(part)
    return digest.hexdigest()


def check_hash(path: str | Path, content: Any, said: object) -> None:
    r"""Checks the content of a file against the hash that the file holds. For a file without a
    hash, a notice is logged once.

    Arguments:
        path: The path of the file.
        content: The content without the hash.
        said: The hash that the file holds; nothing in an older file.

    Raises:
        InputError: If the content has another hash.
    """
    if said is None:
        _notice(str(path))
    elif said != hash_content(content):
        raise InputError(f"{path} is damaged, as its hash shows: take another copy of it.")


@cache
def _notice(path: str) -> None:
    message = "namm: %s holds no hash, as files of older versions: damage of it would not show."
    logging.getLogger(__name__).warning(message, path)


def _parts(name: str, value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _parts(f"{name}/{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from _parts(f"{name}/{key}", item)
    elif isinstance(value, Tensor):
        yield f"{name} {value.dtype} {tuple(value.shape)}\n".encode()
        if value.layout is torch.strided:
            yield value.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, (bool, int, float, str, type(None))):
        yield f"{name} {json.dumps(value)}\n".encode()
