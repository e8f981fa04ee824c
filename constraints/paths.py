r"""Tasks for things that move: through given points, around an obstacle, above a height.

A field is a trajectory `(B, C, T, P)`: the coordinates of P points at T frames, or numbers that
determine the coordinates, such as the angles of the joints of an arm. The tasks act on the points
themselves, so one task serves both.
"""

__all__ = ["MinimumHeight", "Obstacle", "PathConstraint", "PlanarArm", "Waypoints"]

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Constraint
from .batch import Given
from .errors import InputError, check_fields
from .ranges import Natural, PositiveFloat, Ranged, Real


class PlanarArm(Ranged, nn.Module):
    r"""Creates the kinematics of an arm in the plane: n links in a chain that begins at the
    origin. The angle of a link is taken against the link before it, and the angle of the link at
    the origin against axis 1.

    Arguments:
        lengths: The lengths of the links.
        joints: Whether the far ends of all links are followed, or the far end of the last link.

    Raises:
        InputError: If there are no links, or if a length is not positive and finite.
    """

    def __init__(
        self, lengths: Sequence[PositiveFloat] = (1.0, 1.0), joints: bool = False
    ) -> None:
        super().__init__()
        if not len(lengths):
            raise InputError(f"PlanarArm expects positive lengths of links, got {lengths}.")
        self.lengths, self.joints = [float(length) for length in lengths], joints

    def forward(self, angles: Tensor) -> Tensor:
        r"""Returns the positions of the ends of the links.

        Arguments:
            angles: The angles of the joints in radians, with shape `(B, n, T, 1)`.

        Returns:
            The positions, with shape `(B, 2, T, P)`, with P = n or 1.
        """
        n = len(self.lengths)
        check_fields(self, angles, f"angles of {n} joints as channels", angles.shape[1] == n)
        angle, end = torch.zeros_like(angles[:, :1]), torch.zeros_like(angles[:, :1])
        ends = []
        for length, turn in zip(self.lengths, angles.split(1, dim=1), strict=True):
            angle = angle + turn
            end = end + length * torch.cat([angle.cos(), angle.sin()], dim=1)
            ends.append(end)
        return torch.cat(ends, dim=-1) if self.joints else end


class PathConstraint(Constraint, abc.ABC):
    r"""Base of the tasks of trajectories.

    Arguments:
        kinematics: The map from fields to positions; the fields are positions if missing.
    """

    def __init__(self, kinematics: PlanarArm | None = None) -> None:
        super().__init__()
        self.kinematics = kinematics

    def positions(self, x: Tensor) -> Tensor:
        r"""Returns the points that move.

        Arguments:
            x: The fields, with shape `(B, C, T, P)`.

        Returns:
            The positions, with shape `(B, d, T, P)`.
        """
        return x if self.kinematics is None else self.kinematics(x)

    def attributes(self) -> dict[str, Any]:
        if self.kinematics is None:
            return {}
        return {"problem": "arm", "parameters": {"lengths": self.kinematics.lengths}}

    def check_shape(self, x: Tensor) -> None:
        check_fields(self, x, "trajectories (B, C, T, P)", x.ndim == 4)
        d, frames = self.positions(x[:1]).shape[1:3]
        least, most, last = self._extent()
        if not least <= d <= most:
            wanted = f"{least}" if least == most else f"at least {least}"
            raise InputError(
                f"{type(self).__name__} expects {wanted} coordinates, got {d} of fields "
                f"{tuple(x.shape)}: give kinematics where the channels are angles."
            )
        check_fields(self, x, f"trajectories with a frame {last}, counted from 0", last < frames)

    @abc.abstractmethod
    def _extent(self) -> tuple[int, float, int]:
        r"""Returns the least and the largest number of coordinates, and the last frame needed."""


class Waypoints(PathConstraint):
    r"""Creates the task to be at given positions at given frames.

    Arguments:
        index: The K frames, counted from 0.
        targets: The K positions, of d coordinates each.
        kinematics: The map from fields to positions; the fields are positions if missing.

    Raises:
        InputError: If frames are negative or come twice, if there is not one target per frame, or
            if targets are not finite or not of one length.
    """

    targets: Tensor

    def __init__(
        self,
        index: Sequence[Natural],
        targets: Sequence[Sequence[Real]],
        kinematics: PlanarArm | None = None,
    ) -> None:
        super().__init__(kinematics)
        self.index = _frames(self, index)
        lengths = {len(target) for target in targets}
        if len(targets) != len(self.index) or len(lengths) != 1 or not _finite(*targets):
            raise InputError(
                f"Waypoints expects finite targets of one length, one for each of "
                f"{len(self.index)} frames, got {len(targets)}: {targets}."
            )
        value = torch.as_tensor(targets, dtype=torch.float64)
        self.register_buffer("targets", value.T.unsqueeze(-1), persistent=False)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the differences from the targets.

        Arguments:
            x: The fields, with shape `(B, C, T, P)`.

        Returns:
            The residuals, with shape `(B, d, K, P)`.
        """
        return self.positions(x)[:, :, self.index] - self.targets.to(x)

    def unknowns(self, shape: Sequence[int]) -> int | None:
        if self.kinematics is not None:
            return None  # the number depends on whether the targets can be reached
        return math.prod(shape) - len(self.index) * shape[0] * shape[2]

    def _extent(self) -> tuple[int, float, int]:
        d = len(self.targets)
        return d, d, max(self.index)


class Obstacle(PathConstraint):
    r"""Creates the task to stay out of a disc or a ball at all frames; for several, see `Sum`.

    Arguments:
        centre: The centre, of d coordinates.
        radius: The radius, which is positive.
        kinematics: The map from fields to positions; the fields are positions if missing.

    Raises:
        InputError: If the radius is not positive, or if a number is missing or not finite.
    """

    centre: Tensor

    def __init__(
        self, centre: Sequence[Real], radius: PositiveFloat, kinematics: PlanarArm | None = None
    ) -> None:
        super().__init__(kinematics)
        if not len(centre) or not _finite(centre):
            raise InputError(f"Obstacle expects a centre of finite numbers, got {centre}.")
        self.radius = radius
        value = torch.as_tensor(centre, dtype=torch.float64).reshape(-1, 1, 1)
        self.register_buffer("centre", value, persistent=False)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns how deep inside each point is.

        Arguments:
            x: The fields, with shape `(B, C, T, P)`.

        Returns:
            The depths, with shape `(B, 1, T, P)`.
        """
        # the gradient of this norm is 0 at the centre
        away = self.positions(x) - self.centre.to(x)
        distance: Tensor = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        return (self.radius - distance).relu()

    def _extent(self) -> tuple[int, float, int]:
        d = len(self.centre)
        return d, d, 0


class MinimumHeight(PathConstraint):
    r"""Creates the task to be no lower than a height.

    Arguments:
        height: The height.
        channel: The coordinate that is the height.
        index: The frames at which the task applies, counted from 0; all if missing.
        kinematics: The map from fields to positions; the fields are positions if missing.

    Raises:
        InputError: If the height is not finite, if the channel is negative, or if frames are
            negative, come twice or are none.
    """

    def __init__(
        self,
        height: Real,
        channel: Natural = 1,
        index: Sequence[Natural] | None = None,
        kinematics: PlanarArm | None = None,
    ) -> None:
        super().__init__(kinematics)
        self.height, self.channel = height, channel
        self.index = None if index is None else _frames(self, index)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns how much too low each point is.

        Arguments:
            x: The fields, with shape `(B, C, T, P)`.

        Returns:
            The residuals, with shape `(B, 1, K, P)` of K frames.
        """
        height = self.positions(x)[:, self.channel : self.channel + 1]
        if self.index is not None:
            height = height[:, :, self.index]
        return (self.height - height).relu()

    def _extent(self) -> tuple[int, float, int]:
        return self.channel + 1, math.inf, max(self.index or [0])


def _frames(constraint: Constraint, index: Sequence[int]) -> list[int]:
    if not len(index) or min(index) < 0 or len(set(index)) < len(index):
        kind = type(constraint).__name__
        raise InputError(f"{kind} expects distinct frames counted from 0, got {index}.")
    return [int(k) for k in index]


def _finite(*rows: Sequence[float]) -> bool:
    return all(math.isfinite(number) for row in rows for number in row)
