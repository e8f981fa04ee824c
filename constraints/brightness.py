r"""The total brightness of an image, which for a telescope is its flux."""

__all__ = ["TotalBrightness"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Constraint
from .batch import Given
from .ranges import PositiveFloat


class TotalBrightness(Constraint):
    r"""Creates the constraint that the pixels of an image sum to a given number.

    The sum is taken in float64: in float32 its rounding would be thirty times the error of a field
    that was rounded to float32 once.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        total: The sum over all channels and pixels.

    Raises:
        InputError: If the total is not positive.
    """

    def __init__(self, total: PositiveFloat = 120.0) -> None:
        super().__init__()
        self.total = float(total)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns how much the sum exceeds the total.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The residuals, with shape `(B, 1)`.
        """
        return self._excess(x).to(x.dtype)

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        share = self._excess(x) / x[0].numel()
        return x - share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))

    def attributes(self) -> dict[str, Any]:
        return {"parameters": {"total": self.total}}

    def unknowns(self, shape: Sequence[int]) -> int:
        return math.prod(shape) - 1

    def _excess(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(dim=1, keepdim=True, dtype=torch.float64) - self.total
