"""Linear problems with dense matrices, on which PiGDM and its integrator are typed a second time.

The tests compare with dense matrices, matrix exponentials, quadrature, and ordinary differential
equations of scipy, for exact priors. Formulas of flows are in the papers' time, which runs from 0
(noise) to 1 (data).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.fft import dct
from scipy.integrate import quad
from torch import Tensor

from constraints import noise
from inverse import Downsample, LinearOperator, RandomProjection, Select, Sequential
from mdm import (
    DDIM,
    CosineSchedule,
    Denoiser,
    FlowSchedule,
    GaussianDenoiser,
    MixtureDenoiser,
    Schedule,
    VPSchedule,
)
from tests.problems import counted

N, SHAPE = 16, (1, 1, 16)


SCHEDULES = {"vp": VPSchedule(), "cosine": CosineSchedule(), "flow": FlowSchedule()}


STD = 0.125  # the same number in single and in double precision


KEPT = [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14]


def double(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


class Until(DDIM):
    """Uniform steps that end shortly before time 0, where a velocity still exists."""

    last = 1e-3

    def times(self, schedule: Schedule) -> Tensor:
        return torch.linspace(self.start, self.last, self.steps + 1, dtype=torch.float64)


def until(steps: int, start: float = 0.4) -> DDIM:
    return Until(steps, 0.0, start)


class Problem(NamedTuple):
    """An exact prior, measurements of fields drawn from it, and everything dense."""

    denoiser: Denoiser
    operator: LinearOperator | Any
    m: Tensor
    matrix: Tensor  # H
    pinv: Tensor  # of H
    projector: Tensor  # P
    h: Tensor  # the lifted measurements
    std: float

    @property
    def seeds(self) -> range:
        return range(len(self.m))

    def start(self, alpha: float, sigma: float) -> Tensor:
        xi = noise([(seed, "start") for seed in self.seeds], SHAPE, self.h)
        return alpha * self.h + sigma * xi.flatten(1)

    def solve(self, solver: Sequential) -> Tensor:
        result = solver(self.denoiser, self.operator, self.m, SHAPE, self.seeds)
        assert result.report["rejected"] == [0] * len(self.m)
        return result.y.flatten(1)

    def network(
        self,
        x: Tensor,
        scales: tuple[float, float],
        time: float,
        residual: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, ...]:
        """The clean field, the noise, the residual d, and its vector-Jacobian product g with the
        noise, or with the velocity of a flow: `scales` are those of the clean field and of x."""

        x = x.detach().requires_grad_()
        x_hat = self.denoiser(x.reshape(-1, *SHAPE), double(time)[0]).flatten(1)
        of_clean, of_x = scales
        frozen = of_clean * x_hat + of_x * x
        d = residual(x_hat.detach())
        (g,) = torch.autograd.grad((frozen * d).sum(), x)
        return x_hat.detach(), frozen.detach(), d, g

    def diffusion(
        self, x: Tensor, t: float, residual: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        scales = (-mu(t) / sigma(t), 1 / sigma(t))
        return self.network(x, scales, t, residual or self.residual)

    def flow(self, x: Tensor, t: float) -> tuple[Tensor, ...]:
        return self.network(x, (1 / (1 - t), -1 / (1 - t)), 1 - t, self.residual)

    def residual(self, x_hat: Tensor) -> Tensor:
        return self.h - x_hat @ self.projector


TASKS: dict[str, Callable[[float], LinearOperator]] = {
    "inpaint": lambda std: Select(-1, KEPT, N, std),
    "box": lambda std: Downsample(4, [-1], std),
    "random": lambda std: RandomProjection(6, [1, N], 0, std),
}


def basis() -> Tensor:
    return torch.from_numpy(dct(np.eye(N), norm="ortho", axis=0))


def coloured(schedule: Schedule | None = None) -> GaussianDenoiser:
    c = basis()
    variance = 1.0 / torch.arange(1, N + 1, dtype=torch.float64) ** 2
    return counted(GaussianDenoiser(c.T @ torch.diag(variance) @ c, schedule=schedule))


def mixture(schedule: Schedule | None = None) -> MixtureDenoiser:
    c = basis()
    k = torch.arange(1, N + 1, dtype=torch.float64)
    covs = torch.stack([c.T @ torch.diag(v) @ c for v in (0.5 / k**2, 0.1 + 0.3 / k)])
    means = torch.stack([c[1] + 0.5 * c[3], -c[1] + 0.3 * c[2]])
    return counted(MixtureDenoiser(torch.stack(double(0.4, 0.6)), means, covs, schedule))


def pose(
    prior: str = "gaussian",
    task: str = "box",
    schedule: Schedule | None = None,
    std: float = 0.0,
    n: int = 8,
) -> Problem:
    denoiser: Denoiser
    mixed = mixture(schedule)
    truth = mixed.sample(range(500, 500 + n))
    if prior == "gaussian":
        denoiser = coloured(schedule)
        z = noise([(seed, "truth") for seed in range(n)], (N,), truth)
        truth = z / torch.arange(1, N + 1) @ basis()
    else:
        denoiser = mixed
    operator = TASKS[task](std).double()
    m = operator.measure(truth.reshape(-1, *SHAPE), range(n))
    matrix = operator(torch.eye(N, dtype=torch.float64).reshape(N, *SHAPE)).flatten(1).T
    pinv = torch.linalg.pinv(matrix)
    return Problem(denoiser, operator, m, matrix, pinv, pinv @ matrix, m.flatten(1) @ pinv.T, std)


# the schedule of the paper
def beta(t: float) -> float:
    return 0.1 + 19.9 * t


def big_b(t: float) -> float:
    return 0.1 * t + 19.9 * t**2 / 2


def mu(t: float) -> float:
    return math.exp(-big_b(t) / 2)


def sigma(t: float) -> float:
    return math.sqrt(-math.expm1(-big_b(t)))


def integral(f: Callable[[float], float], a: float, b: float) -> float:
    return quad(f, a, b, epsabs=1e-14, epsrel=1e-12, limit=200)[0]


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def slope(error: Callable[[int], float], steps: Sequence[int]) -> float:
    return float(np.polyfit(np.log(steps), np.log([error(n) for n in steps]), 1)[0])


def phis(lam: float, w: float) -> list[Callable[[float], float]]:
    """The drift of the transformed state: of h, of the noise, and of g, outside and inside the
    range of the projector."""

    def kappa(t: float) -> tuple[float, float]:
        return math.exp(lam * t + big_b(t) / 2), math.exp(-w * big_b(t) / 2)

    return [
        lambda t: -0.5 * w * beta(t) * mu(t) * kappa(t)[0] * kappa(t)[1],
        lambda t: beta(t) / (2 * sigma(t)) * kappa(t)[0],
        lambda t: (
            kappa(t)[0] * kappa(t)[1] * (beta(t) / (2 * sigma(t)) - 0.5 * w * beta(t) * sigma(t))
        ),
        lambda t: 0.5 * w * beta(t) * sigma(t) * mu(t) * kappa(t)[0],
        lambda t: 0.5 * w * beta(t) * sigma(t) * mu(t) * kappa(t)[0] * kappa(t)[1],
    ]


def kappa(t: float, w: float) -> float:
    """Of a flow."""

    return w * (t**2 / 2 - t**3 / 3)
