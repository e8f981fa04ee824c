r"""Waves of the linear Korteweg-de Vries equation :math:`u_t + u_{xxx} = 0` on a ring,

.. math:: u(x, t) = \sum_{k=1}^K a_k \cos(k x + k^3 t) + b_k \sin(k x + k^3 t),

with normal a and b. The modes travel at different speeds and stay orthogonal on any grid of more
than 2 K points, so that the energy of a frame is :math:`\sum_k (a_k^2 + b_k^2) / 2` at all times.
"""

__all__ = ["WaveData"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constraints import Constraint, check_range, noise
from datamodules import SimulatedData

MODES = 4


class WaveData(SimulatedData):
    r"""Creates waves of shape `(1, points, frames)`: x is the second-last axis, t is the last.

    Arguments:
        constraint: The constraint of the waves.
        points: The number of grid points, at least 9.
        frames: The number of frames, of 0.05 each.
        kwargs: The arguments of `SimulatedData`.
    """

    def __init__(
        self, constraint: Constraint, points: int = 32, frames: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(constraint, **kwargs)
        check_range(self, f"({2 * MODES}, inf)", points=points)
        check_range(self, "[2, inf)", frames=frames)
        self.x = 2 * math.pi / points * torch.arange(points, dtype=torch.float64)
        self.t = 0.05 * torch.arange(frames, dtype=torch.float64)

    def draw(self, keys: Sequence[tuple[int | str, ...]]) -> Tensor:
        u = torch.zeros(len(keys), 1, len(self.x), len(self.t), dtype=torch.float64)
        for k in range(1, MODES + 1):
            a, b = noise([(*key, "mode", k) for key in keys], (2, 1, 1, 1), self.x).unbind(dim=1)
            angle = k * self.x[:, None] + k**3 * self.t
            u += (a * angle.cos() + b * angle.sin()) / math.sqrt(MODES)
        return u

    def coords(self) -> dict[str, tuple[Sequence[float] | np.ndarray, str]]:
        return {"x": (self.x.numpy(), "length"), "t": (self.t.numpy(), "time")}

    def describe(self) -> dict[str, Any]:
        return {
            "axes": ["x", "t"],
            "channels": ["u"],
            "boundary": {"x": "periodic", "t": "none"},
            "modes": MODES,
            "solver": "exact, a sum of travelling waves",
            "units": "dimensionless",
        }
