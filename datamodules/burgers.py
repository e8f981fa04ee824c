r"""Solutions of the viscous Burgers equation from random smooth initial conditions.

As in the data of Feng et al. (2025), an initial condition is a sample of a Gaussian process with
the Matérn-3/2 kernel

.. math:: k(r) = (1 + \sqrt{3} r / \ell) \exp(-\sqrt{3} r / \ell), \quad \ell = 0.2

on equally spaced points of [-1, 1], scaled to a minimum of 0 and a maximum of 1. The process is
not periodic although the equation is, so that most fields start with a jump across the boundary.
"""

__all__ = ["BurgersData"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constraints import Burgers, Key, PositiveInt, noise

from .simulated import Coords, SimulatedData


class BurgersData(SimulatedData):
    r"""Creates solutions of the Burgers equation, rolled out by the `step` of their constraint.

    A field has shape `(1, points, frames)`. The initial condition itself is no frame: frame 0 is
    the state `dt` later. Solutions are computed in float64 and stored in float32.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        constraint: The equation, with its scheme.
        points: The number of grid points.
        frames: The number of frames.
        kwargs: The arguments of `SimulatedData`.
    """

    constraint: Burgers

    def __init__(
        self,
        constraint: Burgers,
        points: PositiveInt = 64,
        frames: PositiveInt = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, **kwargs)
        self.points = points
        self.frames = frames
        constraint.check_shape(torch.empty(1, 1, points, frames))
        x = torch.linspace(-1, 1, points, dtype=torch.float64)
        r = math.sqrt(3) / 0.2 * (x[:, None] - x).abs()
        self.factor = torch.linalg.cholesky((1 + r) * torch.exp(-r))

    def draw(self, keys: Sequence[Key]) -> Tensor:
        z = noise(keys, (self.points,), self.factor)
        # a matrix product may round in an order that depends on the number of samples
        u = sum(self.factor[:, j, None] * z[:, j] for j in range(self.points))
        least, most = u.amin(dim=0), u.amax(dim=0)
        u = (u - least) / (most - least)
        frames = []
        for _ in range(self.frames):
            u = self.constraint.step(u)
            frames.append(u.T)
        return torch.stack(frames, dim=-1).unsqueeze(1)

    def coords(self) -> Coords:
        length, dt = self.constraint.length, self.constraint.dt
        return {
            "x": (np.linspace(0, length, self.points), "length"),
            "t": (dt * np.arange(1, self.frames + 1), "time"),
        }

    def describe(self) -> dict[str, Any]:
        scheme = {
            "euler": "explicit Euler in time",
            "crank_nicolson": "Crank-Nicolson in time, solved by Newton's method",
        }[self.constraint.scheme]
        dt, substeps = self.constraint.dt, self.constraint.substeps
        return {
            "axes": ["x", "t"],
            "channels": ["u"],
            "points": self.points,
            "frames": self.frames,
            "initial": "Gaussian process, Matern 3/2 of length 0.2 on [-1, 1], scaled to [0, 1]",
            "solver": f"{scheme}, central differences in space, "
            f"{substeps} steps of {dt / substeps:g} a frame",
            "units": "dimensionless",
        }
