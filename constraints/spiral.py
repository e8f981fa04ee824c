r"""The spiral of Archimedes in the plane, whose radius grows evenly with the angle."""

__all__ = ["Spiral"]

import math
from typing import Any

import torch
from torch import Tensor

from .base import Constraint
from .batch import Given
from .errors import check_fields
from .ranges import PositiveFloat

GRID = 512  # angles per turn among which the search for the nearest point starts
ITERATIONS = 6


class Spiral(Constraint):
    r"""Creates the constraint that points lie on the curve

    .. math:: c(s) = R s \, (\cos 2 \pi n s, \sin 2 \pi n s), \quad 0 \leq s \leq 1,

    with n turns and the outer radius R. The residual is the distance to the nearest
    point of the curve.

    Arguments:
        turns: The number of turns n.
        scale: The outer radius R.
    """

    def __init__(self, turns: PositiveFloat = 2.0, scale: PositiveFloat = 2.5) -> None:
        super().__init__()
        self.turns, self.scale = turns, scale

    def curve(self, s: Tensor) -> Tensor:
        r"""Returns points of the curve.

        Arguments:
            s: Where on the curve, from 0 in the middle to 1 at the outer end, with shape `(*)`.

        Returns:
            The points, with shape `(*, 2)`.
        """
        angle = 2 * math.pi * self.turns * s
        return (self.scale * s).unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], dim=-1)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the distance of each position to the curve.

        Arguments:
            x: The points, with shape `(B, 2, *S)`.

        Returns:
            The distances, with shape `(B, 1, *S)`.
        """
        points = x.movedim(1, -1)
        # the nearest point moves along the curve, to which the distance is normal: its own
        # dependence on x does not count
        nearest = self.curve(self._nearest(points.detach()))
        distance: Tensor = torch.linalg.vector_norm(points - nearest, dim=-1)
        return distance.unsqueeze(1)

    @torch.no_grad()
    def _nearest(self, points: Tensor) -> Tensor:
        n = math.ceil(GRID * self.turns)
        grid = torch.linspace(0, 1, n + 1, dtype=points.dtype, device=points.device)
        flat = points.reshape(-1, 2)
        found = [  # in parts, so that the matrix of distances stays small
            torch.cdist(part, self.curve(grid), compute_mode="donot_use_mm_for_euclid_dist")
            for part in flat.split(4096)
        ]
        start = torch.cat([grid[distance.argmin(dim=1)] for distance in found])
        lower, upper = (start - 1 / n).clamp(min=0), (start + 1 / n).clamp(max=1)
        s, rate = start, 2 * math.pi * self.turns
        for _ in range(ITERATIONS):  # Newton's method for half the squared distance
            along = torch.stack([(rate * s).cos(), (rate * s).sin()], dim=1)
            across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
            angle = (rate * s).unsqueeze(1)
            tangent = self.scale * (along + angle * across)
            second = self.scale * rate * (2 * across - angle * along)
            error = self.curve(s) - flat
            size = tangent.square().sum(dim=1)
            # at a centre of curvature the second derivative vanishes
            bend = torch.maximum(size + (error * second).sum(dim=1), 0.01 * size)
            s = (s - (error * tangent).sum(dim=1) / bend).clamp(lower, upper)
        return s.reshape(points.shape[:-1])

    def attributes(self) -> dict[str, Any]:
        return {"problem": "spiral", "parameters": {"turns": self.turns, "scale": self.scale}}

    def check_shape(self, x: Tensor) -> None:
        check_fields(self, x, "points of 2 channels", x.ndim >= 2 and x.shape[1] == 2)
