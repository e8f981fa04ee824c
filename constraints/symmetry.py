r"""Images that a group of moves leaves as they are: equal tiles, mirror images, turned images.

Every element g of a finite group G moves the pixels of an image about. The distance of an image is
how much it changes,

.. math:: \ell(x) = \sum_{g \in G} \operatorname{mean} |x - g x|,

where the identity adds nothing. For shifts by whole tiles this is the sum over the tiles of the
mean difference to that tile repeated (Feng et al., 2025). The nearest image that no move changes
is the average over the group.
"""

__all__ = ["Periodic", "Reflection", "Rotation", "Symmetry"]

import abc
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from .base import Constraint
from .batch import Given
from .errors import InputError, check_fields
from .ranges import Integer, PositiveInt


class Symmetry(Constraint, abc.ABC):
    r"""Base of the constraints that a group of moves in the last two axes leaves fields as they
    are. A subclass defines `orbit`."""

    @abc.abstractmethod
    def orbit(self, x: Tensor) -> Tensor:
        r"""Returns the fields moved by every element of the group, of which there are G.

        Arguments:
            x: The fields, with shape `(B, C, H, W)`.

        Returns:
            The moved fields, with shape `(B, G, C, H, W)`. The first are the fields themselves.
        """

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the change by every move but the identity, times their number, so that the
        mean absolute value is the sum of the mean absolute changes.

        Arguments:
            x: The fields, with shape `(B, C, H, W)`.

        Returns:
            The residuals, with shape `(B, G - 1, C, H, W)`.
        """
        orbit = self.orbit(x)
        return (orbit.shape[1] - 1) * (orbit[:, :1] - orbit[:, 1:])

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        # the average over the group
        return self.orbit(x).mean(dim=1)

    def unfold(self, x: Tensor) -> Tensor:
        r"""Copies one pixel of each orbit to the whole orbit, so that the constraint is satisfied
        exactly: the earliest pixel in the order of rows.

        Arguments:
            x: The fields, with shape `(B, C, H, W)`.

        Returns:
            The symmetric fields, with shape `(B, C, H, W)`.
        """
        earliest = self._earliest(x.shape[-2], x.shape[-1]).to(x.device)
        return x.flatten(-2)[..., earliest]

    def unknowns(self, shape: Sequence[int]) -> int:
        channels, height, width = shape
        return channels * len(self._earliest(height, width).unique())

    def _earliest(self, height: int, width: int) -> Tensor:
        pixels = torch.arange(height * width).view(1, 1, height, width)
        return self.orbit(pixels).amin(dim=(0, 1, 2))


class Periodic(Symmetry):
    r"""Creates the constraint that images consist of equal tiles.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        tiles: The numbers of tiles along the two last axes.

    Raises:
        InputError: If these are not two positive numbers, or if there is one tile alone.
    """

    def __init__(self, tiles: Sequence[PositiveInt] = (2, 2)) -> None:
        super().__init__()
        if len(tiles) != 2 or min(tiles) < 1 or max(tiles) < 2:
            raise InputError(f"Periodic expects the tiles of two axes, not 1 x 1, got {[*tiles]}.")
        self.tiles = list(tiles)

    def orbit(self, x: Tensor) -> Tensor:
        rows, columns = self.tiles
        height, width = x.shape[-2] // rows, x.shape[-1] // columns
        shifts = product(range(0, x.shape[-2], height), range(0, x.shape[-1], width))
        return torch.stack([x.roll(shift, (-2, -1)) for shift in shifts], dim=1)

    def attributes(self) -> dict[str, Any]:
        return {"parameters": {"tiles": self.tiles}}

    def check_shape(self, x: Tensor) -> None:
        rows, columns = self.tiles
        fits = x.ndim == 4 and not (x.shape[2] % rows or x.shape[3] % columns)
        check_fields(self, x, f"(B, C, H, W) that divide into {rows} x {columns} tiles", fits)


class Reflection(Symmetry):
    r"""Creates the constraint that images are their own mirror images.

    Arguments:
        axes: The axes along which the order of pixels can be reversed: -1 (left and right), -2 (up
            and down), or both.

    Raises:
        InputError: If there is no axis, or another one than these two.
    """

    def __init__(self, axes: Sequence[Integer] = (-1,)) -> None:
        super().__init__()
        if not axes or not set(axes) <= {-1, -2} or len(set(axes)) != len(axes):
            raise InputError(f"Reflection expects the axes -1, -2 or both, got {list(axes)}.")
        self.axes = sorted(axes)

    def orbit(self, x: Tensor) -> Tensor:
        images = [x]
        for axis in self.axes:
            images += [image.flip(axis) for image in images]
        return torch.stack(images, dim=1)

    def attributes(self) -> dict[str, Any]:
        return {"parameters": {"mirrored": self.axes}}

    def check_shape(self, x: Tensor) -> None:
        check_fields(self, x, "(B, C, H, W)", x.ndim == 4)


class Rotation(Symmetry):
    r"""Creates the constraint that turning an image about its centre does not change it.

    Arguments:
        order: The number of turns that make a full one: 2 for half turns, 4 for quarter turns.

    Raises:
        InputError: If the order is neither 2 nor 4.
    """

    def __init__(self, order: Literal[2, 4] = 4) -> None:
        super().__init__()
        self.order = order

    def orbit(self, x: Tensor) -> Tensor:
        turns = range(0, 4, 4 // self.order)
        return torch.stack([x.rot90(k, (-2, -1)) for k in turns], dim=1)

    def attributes(self) -> dict[str, Any]:
        return {"parameters": {"order": self.order}}

    def check_shape(self, x: Tensor) -> None:
        fits = x.ndim == 4 and (self.order == 2 or x.shape[2] == x.shape[3])
        check_fields(self, x, "(B, C, H, W), squares at order 4", fits)
