"""A mixture on a grid of its own, on which solvers that descend a loss are typed a second time."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from constraints import Distance, Given, noise
from inverse import RandomProjection
from mdm import MixtureDenoiser, Schedule
from tests.problems import counted

N, SHAPE, STD = 16, (1, 1, 16), 0.125


SEEDS = range(20, 24)


class Anything(Distance):
    """Satisfied by all fields."""

    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
        return (0 * x).flatten(1).sum(dim=1)


def basis() -> Tensor:
    return torch.from_numpy(dct(np.eye(N), norm="ortho", axis=0))


def mixture(schedule: Schedule | None = None) -> MixtureDenoiser:
    c = basis()
    k = torch.arange(1, N + 1, dtype=torch.float64)
    covs = torch.stack([c.T @ torch.diag(v) @ c for v in (0.5 / k**2, 0.1 + 0.3 / k)])
    means = torch.stack([c[1] + 0.5 * c[3], -c[1] + 0.3 * c[2]])
    return counted(MixtureDenoiser(torch.tensor([0.4, 0.6]).double(), means, covs, schedule))


def projection() -> tuple[RandomProjection, Tensor, Tensor]:
    """An operator, its matrix, and measurements."""

    operator = RandomProjection(6, [1, N], 0, STD).double()
    x = mixture().sample(range(500, 500 + len(SEEDS))).reshape(-1, *SHAPE)
    matrix = operator(torch.eye(N, dtype=torch.float64).reshape(N, *SHAPE)).flatten(1).T
    return operator, matrix, operator.measure(x, range(len(SEEDS)))


def per_sample(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


class Grid:
    """The chain of the papers with eta = 1, on times that are evenly spaced."""

    def __init__(self, steps: int) -> None:
        self.times = np.linspace(1, 0, steps + 1).tolist()
        self.denoiser = mixture()

    def kept(self, t: float) -> float:
        return math.exp(-(0.1 * t + 19.9 * t**2 / 2))  # alpha-bar

    def start(self) -> Tensor:
        xi = noise([(seed, "start") for seed in SEEDS], SHAPE, self.denoiser.template)
        return math.sqrt(1 - self.kept(1.0)) * xi

    def predict(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """The noise E and the clean field D."""

        d = self.denoiser(x, torch.tensor(t, dtype=torch.float64))
        return (x - math.sqrt(self.kept(t)) * d) / math.sqrt(1 - self.kept(t)), d

    def levels(self) -> list[tuple[int, float, float, float, float]]:
        """k, t, s, c and sigma of each level."""

        found = []
        for k, (t, s) in enumerate(itertools.pairwise(self.times)):
            ab, ab_s = self.kept(t), self.kept(s)
            std = math.sqrt((1 - ab_s) / (1 - ab) * (1 - ab / ab_s))
            c = math.sqrt(ab / ab_s) * (1 - ab_s) / math.sqrt(1 - ab)
            found.append((k, t, s, c, std))
        return found

    def noise(self, k: int, *name: Any) -> Tensor:
        return noise([(seed, k, *name) for seed in SEEDS], SHAPE, self.denoiser.template)


def norm_of_misfit(matrix: Tensor, m: Tensor, x: Tensor, std: float = STD) -> Tensor:
    return ((m.flatten(1) - x.flatten(1) @ matrix.T) / std).norm(dim=1)


@torch.no_grad()
def differences(loss: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """The gradient of each sample's loss by central differences, with shape `(B, N)`."""

    columns = []
    for i in range(N):
        step = torch.zeros(SHAPE, dtype=x.dtype)
        step[..., i] = h
        columns.append((loss(x + step) - loss(x - step)) / (2 * h))
    return torch.stack(columns, dim=1)
