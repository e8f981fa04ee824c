r"""What all checks of the conformance kit are made on: fields, the same fields with noise, and
copies of the constraint, so that none of them sees what another has left."""

__all__ = ["LEVELS", "ROUNDING", "Probe", "gradient"]

import math
from copy import deepcopy
from functools import cached_property

import torch
from torch import Tensor

from ..base import Constraint
from ..random import noise

ROUNDING = 1e-5  # what counts as zero, beside the distance of noise
LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of noise, in units of s


class Probe:
    r"""Creates the fields that all checks share, and copies of the constraint."""

    def __init__(
        self, constraint: Constraint, x: Tensor, floor: float, satisfied: bool, seed: int
    ) -> None:
        self.original, self.x = constraint, x
        self.floor, self.satisfied, self.seed = floor, satisfied, seed
        std = float(x.double().std())
        self.scale = std if std > 0 else float(x.abs().max()) or 1.0
        self.noisy = self.disturbed(1.0).float()

    def copy(self, dtype: torch.dtype = torch.float32) -> Constraint:
        return deepcopy(self.original).to(dtype)

    def noise(self, name: str, n: int) -> Tensor:
        keys = [(self.seed, "check", name, i) for i in range(n)]
        return self.scale * noise(keys, self.x.shape[1:], self.x.double())

    def disturbed(self, level: float) -> Tensor:
        r"""Returns the fields with noise of a level in units of their scale, in float64. It is the
        same noise at each level."""
        return self.x.double() + level * self.noise("noise", len(self.x))

    @cached_property
    def distances(self) -> list[float]:
        r"""The mean distance at each level of noise."""
        constraint = self.copy(torch.float64)
        with torch.no_grad():
            return [float(constraint(self.disturbed(level)).mean()) for level in LEVELS]

    @property
    def limit(self) -> float:
        r"""The largest distance that counts as none."""
        from_one = self.distances[LEVELS.index(1.0) :]
        seen = next((d for d in from_one if 0 < d < math.inf), 0.0)
        return max(2 * self.floor, ROUNDING * seen)


def gradient(constraint: Constraint, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the distances and the gradient of their sum."""
    x = x.detach().clone().requires_grad_()
    distance = constraint(x)
    return distance.detach(), torch.autograd.grad(distance.sum(), x)[0]
