r"""Points of the plane near a spiral, the smallest example of data."""

__all__ = ["SpiralData"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from constraints import Key, NonNegativeFloat, Spiral, noise, uniform

from .simulated import Coords, SimulatedData


class SpiralData(SimulatedData):
    r"""Creates points almost evenly along a spiral, with normal noise. A field has shape
    `(2, 1, 1)`, and its distance to the constraint is the distance to the curve.

    Arguments:
        constraint: The spiral.
        std: The std of the noise in each coordinate.
        kwargs: The arguments of `SimulatedData`.
    """

    constraint: Spiral

    def __init__(self, constraint: Spiral, std: NonNegativeFloat = 0.01, **kwargs: Any) -> None:
        super().__init__(constraint, **kwargs)
        self.std = std
        # one point in 4e10 lies beyond 7 std; the rest is for rounding
        self.floor = 7 * std + 1e-6 * constraint.scale

    def draw(self, keys: Sequence[Key]) -> Tensor:
        share = uniform([(*key, "share") for key in keys], (), torch.empty(0).double())
        # the length of the curve grows as the square of the angle
        points = self.constraint.curve(share.sqrt())
        points = points + self.std * noise([(*key, "noise") for key in keys], (2,), points)
        return points[:, :, None, None]

    def coords(self) -> Coords:
        return {}

    def describe(self) -> dict[str, Any]:
        return {
            "axes": [],
            "channels": ["x1", "x2"],
            "std": self.std,
            "solver": "points of the curve at the root of a uniform number, with normal noise",
            "units": "dimensionless",
        }
