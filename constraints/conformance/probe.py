r"""The probe that all checks of the conformance kit share: fields, the same fields with noise, and
copies of the constraint, so that no check sees the traces of another."""

__all__ = ["LEVELS", "ROUNDING", "Probe", "gradient"]

import math
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property

import torch
from torch import Tensor

from ..base import Constraint
from ..batch import Given, take
from ..random import noise

ROUNDING = 1e-5  # what counts as zero, beside the distance of noise
LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of noise, in units of s


class Probe:
    r"""Creates the fields that all checks share, and copies of the constraint."""

    def __init__(
        self,
        constraint: Constraint,
        x: Tensor,
        floor: float,
        satisfied: bool,
        seed: int,
        given: Given | None,
    ) -> None:
        self.original, self.x, self.given = constraint, x, given
        self.floor, self.satisfied, self.seed = floor, satisfied, seed
        std = float(x.double().std())
        self.scale = std if std > 0 else float(x.abs().max()) or 1.0
        self.noisy = self.disturbed(1.0).float()

    def copy(self, dtype: torch.dtype = torch.float32) -> Constraint:
        return deepcopy(self.original).to(dtype)

    def rows(self, rows: Sequence[int] | Tensor) -> Given | None:
        r"""Returns the data of some samples."""
        return take(self.given, torch.as_tensor(rows, device=self.x.device))

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
            fields = map(self.disturbed, LEVELS)
            return [float(constraint(x, self.given).mean()) for x in fields]

    @property
    def limit(self) -> float:
        r"""The largest distance that counts as none."""
        from_one = self.distances[LEVELS.index(1.0) :]
        noticed = next((d for d in from_one if 0 < d < math.inf), 0.0)
        return max(2 * self.floor, ROUNDING * noticed)


def gradient(constraint: Constraint, x: Tensor, given: Given | None) -> tuple[Tensor, Tensor]:
    r"""Returns the distances and the gradient of their sum."""
    x = x.detach().clone().requires_grad_()
    distance = constraint(x, given)
    return distance.detach(), torch.autograd.grad(distance.sum(), x)[0]
