r"""Noise of whole batches, for chains of few numbers whose time would go into seeds."""

__all__ = ["by_batch"]

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from constraints import generator


def by_batch(keys: Iterable[Sequence[Any]], shape: Sequence[int], like: Tensor) -> Tensor:
    r"""Draws like `constraints.noise`, but from one generator for all samples, which is several
    times faster here. A list of seeds that repeats gets the same noise again."""
    keys = list(keys)
    distinct = len({key[0] for key in keys})
    fields = torch.randn((distinct, *shape), generator=generator("batch", *keys[0]))
    return fields.repeat(len(keys) // distinct, *[1] * len(shape)).to(like)
