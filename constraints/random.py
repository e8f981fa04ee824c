r"""Counter-based randomness: a draw depends on its key, never on earlier draws.

Every random number of training, generation and solving comes from a key such as
`(seed, stage, sample, step)`. A sample is therefore the same alone, in a batch and on any rank,
and training that stopped in the middle of an epoch resumes without any saved random state.
Numbers are drawn on the CPU, so that a key means the same on every device.
"""

__all__ = ["Key", "derive_seed", "generator", "noise", "uniform"]

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .errors import InputError

Key = tuple[int | str, ...]


def derive_seed(*key: int | str) -> int:
    r"""Returns a non-negative 63-bit hash of the key.

    Arguments:
        key: Any integers and strings, for example `(seed, "burgers", index)`.

    Raises:
        InputError: If a part of the key is neither, such as a number of NumPy, whose hash differs.
    """
    if not all(isinstance(part, int | str) for part in key):
        raise InputError(f"A key of noise has integers and texts, got {key}: convert its parts.")
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    r"""Returns a generator whose state is a hash of the key, as in `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*key))


def noise(keys: Iterable[Key], shape: Sequence[int], template: Tensor | None = None) -> Tensor:
    r"""Draws standard normal fields, one per key.

    Arguments:
        keys: The B keys.
        shape: The shape `(C, *S)` of one field.
        template: A tensor whose device and dtype the result takes; float32 on the CPU if missing.

    Returns:
        The fields, with shape `(B, C, *S)`.
    """
    return _stack(torch.randn, keys, shape, template)


def uniform(keys: Iterable[Key], shape: Sequence[int], template: Tensor | None = None) -> Tensor:
    r"""Draws numbers uniform in [0, 1), one array per key. The arguments are the arguments of
    `noise`."""
    return _stack(torch.rand, keys, shape, template)


def _stack(
    draw: Callable[..., Tensor], keys: Iterable[Key], shape: Sequence[int], template: Tensor | None
) -> Tensor:
    fields = torch.stack([draw(tuple(shape), generator=generator(*key)) for key in keys])
    return fields if template is None else fields.to(template)
