r"""The batches that data modules give, and the data of each sample that a constraint may need."""

__all__ = ["Batch", "Given", "take"]

from collections.abc import Mapping
from typing import Any, TypedDict

from torch import Tensor

Given = Mapping[str, Tensor]  # data of each sample: row i belongs to field i of a batch


class Batch(TypedDict, total=False):
    r"""The batches of all data modules. Only `x` and `index` are in every batch."""

    x: Tensor  # the fields, (B, C, *S)
    index: Tensor  # their positions in the split, (B,)
    given: Given  # the data of each sample that the constraint needs, (B, *) each
    y: Tensor  # samples of a diffusion model in mirror space, (B, *Y)
    n: Tensor  # the numbers of objects, (B,)
    density: Tensor  # the densities of objects, (B, 1, H, W)


def take(given: Given | None, rows: Any) -> Given | None:
    r"""Returns the data of some samples of a batch.

    Arguments:
        given: The data of each sample, with shape `(B, *)` each, or nothing.
        rows: The rows, in any form that indexes a tensor.
    """
    return given and {name: value[rows] for name, value in given.items()}
