r"""Simulated motion: a point that wanders through a box, and an arm of two links that is driven.

Both are moved by cubic B-splines through random knots, which are smooth, and nowhere outside the
range of their knots. Motion obeys no constraint but the limits of its coordinates, a
`constraints.Box`: a task such as `constraints.Waypoints` is asked of samples, never of the data.
"""

__all__ = ["ArmData", "PointMassData"]

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from constraints import (
    Box,
    InputError,
    Key,
    NonNegativeFloat,
    PositiveFloat,
    Range,
    check_range,
    noise,
    uniform,
)

from .simulated import Coords, SimulatedData

DT = 0.05  # seconds between frames
SUBSTEPS = 2  # of Runge-Kutta in a frame


class PointMassData(SimulatedData):
    r"""Creates smooth paths of a point in the plane. A field has shape `(2, frames, 1)`.

    Each coordinate is a spline whose knots are uniform between its limits.

    Arguments:
        constraint: The limits of the two coordinates.
        frames: The number of frames, 0.05 s apart.
        knots: The number of knots, at least 4; the more, the more a path turns.
        kwargs: The arguments of `SimulatedData`.

    Raises:
        InputError: If the limits are not two finite ranges, or if there are fewer than 2 frames
            or 4 knots.
    """

    constraint: Box

    def __init__(
        self,
        constraint: Box,
        frames: Annotated[int, Range("[2, inf)")] = 64,
        knots: Annotated[int, Range("[4, inf)")] = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, **kwargs)
        self.frames, self.knots = frames, knots
        self.lower, self.upper = _limits(self, frames, knots)
        self.weights = _spline(frames, knots)

    def draw(self, keys: Sequence[Key]) -> Tensor:
        share = uniform(keys, (self.knots, 2, 1), self.weights)
        path = _combine(self.weights, self.lower + (self.upper - self.lower) * share)
        return path.movedim(1, 2)

    def coords(self) -> Coords:
        return {"t": (DT * np.arange(self.frames), "s")}

    def describe(self) -> dict[str, Any]:
        return {
            "problem": "point_mass",
            "axes": ["t"],
            "channels": ["x1", "x2"],
            "limits": [self.lower.flatten().tolist(), self.upper.flatten().tolist()],
            "frames": self.frames,
            "knots": self.knots,
            "solver": "cubic B-spline of knots that are uniform between the limits",
            "units": "dimensionless",
        }


class ArmData(SimulatedData):
    r"""Creates motions of an arm of two links in a horizontal plane, as angles of its joints in
    radians. A field has shape `(2, frames, 1)`, for `constraints.PlanarArm`.

    Each link carries the mass 1 at its far end. With the angles q and the torques :math:`\tau` at
    the joints, the motion follows

    .. math:: M(q)\, \ddot q + h(q, \dot q) = \tau - d\, \dot q - k\, (q - q_0),

    with damping d and springs k to the middle :math:`q_0` of the limits, solved by the classical
    Runge-Kutta method. The torques are splines of normal knots; the start is uniform in the middle
    half of the limits, at rest. A motion that leaves the limits is drawn again.

    Arguments:
        constraint: The limits of the two angles.
        lengths: The lengths of the two links.
        frames: The number of frames, 0.05 s apart.
        knots: The number of knots of a torque, at least 4.
        torque: The std of the knots.
        damping: The damping d.
        stiffness: The stiffness k of the springs.
        kwargs: The arguments of `SimulatedData`.

    Raises:
        InputError: If the lengths are not two positive numbers, if the torque, the damping or the
            stiffness is negative, if the limits are not two finite ranges, or if there are fewer
            than 2 frames or 4 knots.
    """

    constraint: Box
    remedy = (
        "the motion leaves the limits, which are too narrow for this torque, give wider limits or "
        "a smaller torque"
    )

    def __init__(
        self,
        constraint: Box,
        lengths: Sequence[PositiveFloat] = (1.0, 1.0),
        frames: Annotated[int, Range("[2, inf)")] = 64,
        knots: Annotated[int, Range("[4, inf)")] = 8,
        torque: NonNegativeFloat = 4.0,
        damping: NonNegativeFloat = 1.0,
        stiffness: NonNegativeFloat = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, **kwargs)
        if len(lengths) != 2 or min(lengths) <= 0:
            raise InputError(f"ArmData expects two positive lengths, got {lengths}.")
        self.lengths = [float(length) for length in lengths]
        self.frames, self.knots = frames, knots
        self.torque, self.damping, self.stiffness = torque, damping, stiffness
        self.lower, self.upper = _limits(self, frames, knots)
        self.weights = _spline(2 * SUBSTEPS * (frames - 1) + 1, knots)

    def draw(self, keys: Sequence[Key]) -> Tensor:
        share = uniform([(*key, "start") for key in keys], (2, 1), self.weights)
        start = self.lower + (self.upper - self.lower) * (0.25 + 0.5 * share)
        knots = noise([(*key, "torque") for key in keys], (self.knots, 2, 1), self.weights)
        # a torque at each half step
        torque = self.torque * _combine(self.weights, knots)
        x = self.roll(start, torch.zeros_like(start), torque)[0]
        inside = self.constraint.residual(x).flatten(1).amax(dim=1) == 0
        return torch.where(inside[:, None, None, None], x, torch.nan)

    def roll(self, angle: Tensor, rate: Tensor, torque: Tensor) -> tuple[Tensor, Tensor]:
        r"""Moves arms.

        Arguments:
            angle: The angles at the start, with shape `(B, 2, 1)`.
            rate: Their rates of change, with shape `(B, 2, 1)`.
            torque: The torques at each half step, with shape `(B, H, 2, 1)`.

        Returns:
            The angles and their rates at the frames, each with shape `(B, 2, T, 1)`.
        """
        h = DT / SUBSTEPS
        states = [(angle, rate)]
        for k in range(0, torque.shape[1] - 2, 2):
            start, middle, end = torque[:, k], torque[:, k + 1], torque[:, k + 2]
            v1, a1 = rate, self.accelerate(angle, rate, start)
            v2 = rate + h / 2 * a1
            a2 = self.accelerate(angle + h / 2 * v1, v2, middle)
            v3 = rate + h / 2 * a2
            a3 = self.accelerate(angle + h / 2 * v2, v3, middle)
            v4 = rate + h * a3
            a4 = self.accelerate(angle + h * v3, v4, end)
            angle = angle + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
            rate = rate + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
            states.append((angle, rate))
        angles, rates = (torch.stack(s, dim=2) for s in zip(*states[::SUBSTEPS], strict=True))
        return angles, rates

    def accelerate(self, angle: Tensor, rate: Tensor, torque: Tensor) -> Tensor:
        r"""Returns the second derivatives of the angles. All arguments have shape `(B, 2, 1)`."""
        a, b = self.lengths
        rest = (self.lower + self.upper) / 2
        force = torque - self.damping * rate - self.stiffness * (angle - rest)
        cos, sin = a * b * angle[:, 1].cos(), a * b * angle[:, 1].sin()
        inner, outer = rate.unbind(1)
        # less the centrifugal and Coriolis forces
        push = force[:, 0] + sin * outer * (2 * inner + outer)
        pull = force[:, 1] - sin * inner**2
        # the inertia of both links, of the outer link, and between the links
        both, own, cross = 2 * a**2 + b**2 + 2 * cos, b**2, b**2 + cos
        solved = torch.stack([own * push - cross * pull, both * pull - cross * push], dim=1)
        return solved / (both * own - cross**2).unsqueeze(1)

    def coords(self) -> Coords:
        return {"t": (DT * np.arange(self.frames), "s")}

    def describe(self) -> dict[str, Any]:
        return {
            "problem": "arm",
            "axes": ["t"],
            "channels": ["q1", "q2"],
            "parameters": {
                "lengths": self.lengths,
                "torque": self.torque,
                "damping": self.damping,
                "stiffness": self.stiffness,
            },
            "limits": [self.lower.flatten().tolist(), self.upper.flatten().tolist()],
            "frames": self.frames,
            "knots": self.knots,
            "solver": f"classical Runge-Kutta, {SUBSTEPS} steps a frame, cubic B-splines as "
            f"torques",
            "units": "rad",
        }


def _limits(data: PointMassData | ArmData, frames: int, knots: int) -> tuple[Tensor, Tensor]:
    box = data.constraint
    check_range(data, "[2, inf)", frames=frames)
    check_range(data, "[4, inf)", knots=knots)
    box.check_shape(torch.empty(1, 2, frames, 1))
    lower, upper = (bound.expand(2).reshape(2, 1) for bound in (box.low, box.high))
    if not torch.isfinite(upper - lower).all():
        limits = f"{box.low.tolist()} and {box.high.tolist()}"
        raise InputError(f"Motion is simulated between finite limits, got {limits}.")
    return lower, upper


def _spline(n: int, knots: int) -> Tensor:
    r"""Returns the weights of the knots at n times, with shape `(n, knots)`."""
    nodes = np.arange(-3, knots + 1) / (knots - 3)
    # the last time would begin the next piece
    times = np.linspace(0, 1, n).clip(max=1 - 1e-12)
    return torch.from_numpy(BSpline.design_matrix(times, nodes, 3).toarray())


def _combine(weights: Tensor, knots: Tensor) -> Tensor:
    r"""Returns the splines, `(B, n, 2, 1)`, of the knots `(B, K, 2, 1)`. A matrix product may
    round in an order that depends on the number of samples."""
    terms = zip(weights.unbind(1), knots.unbind(1), strict=True)
    return sum(w[:, None, None] * c.unsqueeze(1) for w, c in terms)  # type: ignore[return-value]
