"""PiGDM and its conjugate integrator against their formulas, typed a second time: dense matrices,
matrix exponentials, quadrature, and ordinary differential equations of scipy, with exact priors.

Formulas of flows are in the papers' time, which runs from 0 (noise) to 1 (data).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm
from torch import Tensor

from constraints import InputError, noise
from inverse import (
    CPiGDM,
    Downsample,
    LinearOperator,
    PiGDM,
    Pullback,
    Quantise,
    RandomProjection,
    Residual,
    Run,
    Select,
    Sequential,
)
from inverse.linalg import Tangent, cg, damped_lift
from inverse.solvers.conjugate import Weighting, increments, integrated_rate
from mdm import (
    DDIM,
    ChainSampler,
    CosineSchedule,
    Denoiser,
    FlowSchedule,
    GaussianDenoiser,
    MixtureDenoiser,
    Schedule,
    VPSchedule,
    descend,
)
from problems import Affine, Total, tiny_mirror

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
    return GaussianDenoiser(c.T @ torch.diag(variance) @ c, schedule=schedule)


def mixture(schedule: Schedule | None = None) -> MixtureDenoiser:
    c = basis()
    k = torch.arange(1, N + 1, dtype=torch.float64)
    covs = torch.stack([c.T @ torch.diag(v) @ c for v in (0.5 / k**2, 0.1 + 0.3 / k)])
    means = torch.stack([c[1] + 0.5 * c[3], -c[1] + 0.3 * c[2]])
    return MixtureDenoiser(torch.stack(double(0.4, 0.6)), means, covs, schedule)


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


# without guidance


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
def test_no_guidance_is_ddim(prior: str, name: str, eta: float) -> None:
    p = pose(prior, schedule=SCHEDULES[name])
    transition = DDIM(9, eta)
    free = ChainSampler(transition)(p.denoiser, SHAPE, p.seeds).y.flatten(1)
    for solver in (
        CPiGDM(0.0, transition=transition),
        PiGDM(0.0, "conjugate", transition=transition),
        PiGDM(0.0, "conjugate", integrate=True, transition=transition),
    ):
        torch.testing.assert_close(p.solve(solver), free, rtol=0, atol=1e-10)


def test_no_guidance_from_the_middle_is_ddim_from_there() -> None:
    p = pose("mixture", "inpaint")
    times = [0.4 * (1 - k / 5) for k in range(6)]
    x = p.start(mu(0.4), sigma(0.4))
    for t, s in itertools.pairwise(times):
        x_hat, eps, *_ = p.diffusion(x, t)
        x = mu(s) * x_hat + sigma(s) * eps
    for solver in (
        CPiGDM(0.0, transition=DDIM(5, 0.0, 0.4)),
        PiGDM(0.0, transition=DDIM(5, 0.0, 0.4)),
    ):
        torch.testing.assert_close(p.solve(solver), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_lambda_alone_vanishes_with_the_step(name: str) -> None:
    p = pose("mixture", schedule=SCHEDULES[name])

    def gap(n: int) -> float:
        moved = p.solve(CPiGDM(0.0, lam=-1.0, transition=until(n)))
        return rms(moved - p.solve(CPiGDM(0.0, transition=until(n))))

    assert gap(5) > 1e-4
    assert slope(gap, [20, 80]) == pytest.approx(-1, abs=0.1)


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def slope(error: Callable[[int], float], steps: Sequence[int]) -> float:
    return float(np.polyfit(np.log(steps), np.log([error(n) for n in steps]), 1)[0])


# the increments of one step


REFERENCE = {
    (0.0, 2.0): [
        *(1.5363970492e-01, -6.6308623665e-01, 8.0095889073e-02),
        *(-4.9687869309e-01, -1.3099665187e-01),
    ],
    (0.0, 15.0): [
        *(3.6914800791e-04, -6.6308623665e-01, 5.0076946001e-04),
        *(-3.7265901981e00, -3.0657910066e-04),
    ],
    (-0.5, 2.0): [
        *(1.2848545867e-01, -5.5312260522e-01, 6.6793311836e-02),
        *(-4.1458924054e-01, -1.0951138895e-01),
    ],
    (-0.5, 15.0): [
        *(3.1165157507e-04, -5.5312260522e-01, 4.2246024129e-04),
        *(-3.1094193041e00, -2.5877802388e-04),
    ],
}


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


def transformed(lam: float, w: float, t: float, s: float) -> list[float]:
    """The five increments of the transformed state that the code works with."""

    ours, other = increments(
        VPSchedule(), "conjugate", w, lam, *double(t, s), double(0.0)[0][None]
    )
    a = sigma(t) / mu(t)
    inside = mu(s) ** w * math.exp(lam * s)
    outside = math.exp(lam * s)
    return [
        inside * float(ours.lift),
        outside * float(other.frozen - other.clean * a),
        inside * float(ours.frozen - ours.clean * a),
        outside * float(other.jacobian),
        inside * float(ours.jacobian),
    ]


@pytest.mark.parametrize(("lam", "w"), REFERENCE)
def test_increments_are_those_of_the_reference(lam: float, w: float) -> None:
    found = transformed(lam, w, 0.4, 0.3202)

    assert found == pytest.approx(REFERENCE[lam, w], rel=1e-9)
    assert found == pytest.approx([integral(f, 0.4, 0.3202) for f in phis(lam, w)], rel=1e-9)


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.7), (0.4, 0.0), (0.08, 0.001)])
@pytest.mark.parametrize(("lam", "w"), [(0.0, 1.0), (0.3, 5.0), (-0.5, 2.0)])
def test_increments_of_long_steps(lam: float, w: float, t: float, s: float) -> None:
    # to 1e-9 of the largest: those that cancel are differences of numbers of order 1
    found, exact = transformed(lam, w, t, s), [integral(f, t, s) for f in phis(lam, w)]
    scale = [mu(s) ** w, 1, mu(s) ** w, 1, mu(s) ** w]
    for value, number, size in zip(found, exact, scale, strict=True):
        assert value == pytest.approx(number, rel=1e-9, abs=1e-9 * size)


# the sampler


@pytest.mark.parametrize("lam", [0.0, -0.5, 0.3])
@pytest.mark.parametrize("w", [0.0, 1.0, 5.0, 15.0])
def test_gain_form_is_the_transformed_sampler(w: float, lam: float) -> None:
    p = pose("mixture", "random")
    eye, proj = np.eye(N), p.projector.numpy()

    def a(t: float, sign: float = 1.0) -> Tensor:
        # A = exp of the integral of λ - F from 0, F = β (w P - I) / 2
        return torch.from_numpy(expm(sign * (lam * t * eye - 0.5 * big_b(t) * (w * proj - eye))))

    step = 1e-5
    slopes = (a(0.3 + step) - a(0.3 - step)) / (2 * step)
    f = 0.5 * beta(0.3) * (w * p.projector - torch.eye(N))
    # central differences: rounding over the step
    assert (slopes + a(0.3) @ f - lam * a(0.3)).abs().max() < 1e-8 * max(1, slopes.abs().max())

    times = np.linspace(0.4, 1e-3, 6).tolist()
    x = p.start(mu(0.4), sigma(0.4))
    bar = x @ a(0.4).T
    ortho = torch.eye(N) - p.projector
    for t, s in itertools.pairwise(times):
        x = bar @ a(t, -1.0).T
        _, eps, d, g = p.diffusion(x, t)
        y, s0, s1, j0, j1 = (integral(phi, t, s) for phi in phis(lam, w))
        bar = bar + lam * bar * (s - t) + y * p.h
        bar = bar + s0 * eps @ ortho + s1 * eps @ p.projector
        bar = bar + j0 * g @ ortho + j1 * g @ p.projector
    x = bar @ a(times[-1], -1.0).T

    found = p.solve(CPiGDM(w, lam=lam, transition=until(5)))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("w", [0.5, 2.0, 15.0])
@pytest.mark.parametrize("task", TASKS)
def test_gain_form_is_the_closed_one(task: str, w: float) -> None:
    p = pose("mixture", task)
    times = np.linspace(0.4, 0, 7).tolist()
    x = p.start(mu(0.4), sigma(0.4))
    ortho = torch.eye(N) - p.projector
    for t, s in itertools.pairwise(times):
        x_hat, eps, d, g = p.diffusion(x, t)
        rho, log = (mu(t) / mu(s)) ** w, w * math.log(mu(s) / mu(t))

        def level(y: float, s: float = s) -> float:
            return math.sqrt(max(1 - (mu(s) * y ** (1 / w)) ** 2, 0))

        inside = integral(level, rho, 1) / (1 - rho)
        area = (math.atanh(sigma(t)) - sigma(t)) - (math.atanh(sigma(s)) - sigma(s))
        outside = w * area / log
        x_hat = x_hat + (1 - rho) * (d - inside * g @ p.projector) - log * outside * g @ ortho
        x = mu(s) * x_hat + sigma(s) * eps

    found = p.solve(CPiGDM(w, transition=DDIM(6, 0.0, 0.4)))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


def kappa(t: float, w: float) -> float:
    """Of a flow."""

    return w * (t**2 / 2 - t**3 / 3)


def test_contraction_of_a_flow_has_its_check_values() -> None:
    assert kappa(0.6, 20) == pytest.approx(2.16, rel=1e-12)
    assert kappa(0.68, 20) == pytest.approx(2.5277866667, rel=1e-10)
    rho = 0.6922648491
    assert math.exp(kappa(0.6, 20) - kappa(0.68, 20)) == pytest.approx(rho, rel=1e-9)
    options = (FlowSchedule(), "conjugate", 20.0, 0.0, *double(0.4, 0.32), double(0.0)[0][None])
    assert float(increments(*options)[0].clean) == pytest.approx(rho, rel=1e-9)


@pytest.mark.parametrize("w", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("task", ["inpaint", "random"])
def test_gain_form_of_a_flow(task: str, w: float) -> None:
    p = pose("mixture", task, FlowSchedule())
    times = np.linspace(0.6, 1, 6).tolist()
    x = p.start(0.6, 0.4)
    ortho = torch.eye(N) - p.projector
    for t, s in itertools.pairwise(times):
        _, v, d, g = p.flow(x, t)

        def decay(u: float, s: float = s) -> float:
            return w * u * (1 - u) ** 2 * math.exp(kappa(u, w) - kappa(s, w))

        log = kappa(s, w) - kappa(t, w)
        gain = -math.expm1(-log)
        inside = integral(decay, t, s) / gain
        outside = integral(lambda u: w * u * (1 - u) ** 2, t, s) / log
        x = x + (s - t) * v + gain * (d + inside * g @ p.projector) + log * outside * g @ ortho

    found = p.solve(CPiGDM(w, transition=DDIM(5, 0.0, 0.4)))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("lam", [0.0, 0.2, -1.0])
def test_flow_is_its_transformed_sampler(lam: float) -> None:
    w, p = 5.0, pose("mixture", "box", FlowSchedule())
    proj, ortho = p.projector, torch.eye(N) - p.projector

    def both(x: Tensor, null: float, range_: float) -> Tensor:
        return null * x @ ortho + range_ * x @ proj

    times = np.linspace(0.6, 1, 6).tolist()
    x = p.start(0.6, 0.4)
    bar = math.exp(lam * 0.6) * both(x, 1, math.exp(kappa(0.6, w)))
    for t, s in itertools.pairwise(times):
        x = math.exp(-lam * t) * both(bar, 1, math.exp(-kappa(t, w)))
        _, v, d, g = p.flow(x, t)

        def area(f: Callable[[float], float], k: int, t: float = t, s: float = s) -> float:
            return integral(lambda u: f(u) * math.exp(lam * u + k * kappa(u, w)), t, s)

        bar = bar + lam * bar * (s - t) + area(lambda u: w * u * (1 - u), 1) * p.h
        bar = bar + both(v, area(lambda u: 1.0, 0), area(lambda u: 1 - w * u * (1 - u) ** 2, 1))
        bar = bar + both(g, *(area(lambda u: w * u * (1 - u) ** 2, k) for k in (0, 1)))
    x = math.exp(-lam) * both(bar, 1, math.exp(-kappa(1, w)))

    found = p.solve(CPiGDM(w, lam=lam, transition=DDIM(5, 0.0, 0.4)))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("integrate", [False, True])
@pytest.mark.parametrize("weighting", ["pigdm", "conjugate"])
def test_pigdm_is_its_pseudo_code(weighting: Weighting, integrate: bool) -> None:
    w, p = 1.5, pose("mixture", "box")
    times = np.linspace(0.4, 0, 7).tolist()
    x = p.start(mu(0.4), sigma(0.4))
    for t, s in itertools.pairwise(times):
        _, eps, d, g = p.diffusion(x, t)
        c = {
            ("pigdm", False): 0.5 * w * beta(t) * (t - s) / mu(t),
            ("conjugate", False): 0.5 * w * beta(t) * mu(t) * (t - s),
            ("pigdm", True): w * (1 / mu(t) - 1 / mu(s)),
            ("conjugate", True): w * (mu(s) - mu(t)),
        }[weighting, integrate]
        pulled = (d - sigma(t) * g) / mu(t)  # J^T d
        x = mu(s) * (x / mu(t) + (sigma(s) / mu(s) - sigma(t) / mu(t)) * eps + c * pulled)

    solver = PiGDM(w, weighting, integrate, transition=DDIM(6, 0.0, 0.4))
    torch.testing.assert_close(p.solve(solver), x, rtol=0, atol=1e-9)


# noise in the measurement


def strength(p: Problem, x_hat: Tensor, r2: float) -> Tensor:
    """H^T (r² H H^T + std²)^-1 (m - H x), times r²."""

    system = r2 * p.matrix @ p.matrix.T + p.std**2 * torch.eye(len(p.matrix))
    misfit = p.m.flatten(1) - x_hat @ p.matrix.T
    return r2 * torch.linalg.solve(system, misfit.T).T @ p.matrix


@pytest.mark.parametrize("w", [1.0, 15.0])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.8), (0.4, 0.32), (0.1, 0.0)])
def test_contraction_with_noise_is_the_closed_one(t: float, s: float, w: float) -> None:
    std, values = 0.1, np.array([0.01, 0.1215, 0.25, 1.0])

    def kappa(u: float) -> Any:
        total = values**2 + std**2
        share = std**2 / total
        b = big_b(u)
        return -w / 2 * (b - share * np.log1p(total * math.expm1(b) / std**2))

    damping = torch.from_numpy(std**2 / values**2)
    ours, _ = increments(VPSchedule(), "conjugate", w, 0.0, *double(t, s), damping)
    exact = kappa(s) - kappa(t)
    # the closed form is a difference of logarithms of order 10
    assert (-ours.clean.log()).tolist() == pytest.approx(exact.tolist(), rel=1e-9, abs=1e-13)

    def density(u: float, value: float) -> float:
        share = value**2 * sigma(u) ** 2 / (value**2 * sigma(u) ** 2 + std**2)
        return -0.5 * w * beta(u) * mu(u) * share

    rate = integrated_rate(VPSchedule(), "conjugate", w, *double(t, s), damping)
    areas = [integral(lambda u, v=v: density(u, v), t, s) for v in values]
    assert rate.tolist() == pytest.approx(areas, rel=1e-9)


@pytest.mark.parametrize("task", ["box", "random"])
def test_step_with_noise_is_exact_in_each_direction(task: str) -> None:
    w, p = 5.0, pose("mixture", task, std=STD)
    _, values, vt = torch.linalg.svd(p.matrix)
    rank = len(values)
    times = np.linspace(0.4, 1e-3, 6).tolist()
    x = p.start(mu(0.4), sigma(0.4))

    def kappa(u: float, value: float) -> float:
        total, b = value**2 + p.std**2, big_b(u)
        return -w / 2 * (b - p.std**2 / total * math.log1p(total * math.expm1(b) / p.std**2))

    for t, s in itertools.pairwise(times):
        share = values**2 * sigma(t) ** 2 / (values**2 * sigma(t) ** 2 + p.std**2)
        share = torch.cat([share, torch.zeros(N - rank)]) @ torch.diag(torch.ones(N)).double()

        def weighted(x_hat: Tensor, share: Tensor = share) -> Tensor:
            return ((p.h - x_hat) @ vt.T * share) @ vt

        x_hat, eps, _, g = p.diffusion(x, t, weighted)
        z, z_hat, z_g = p.h @ vt.T, x_hat @ vt.T, g @ vt.T
        clean = torch.empty_like(z)
        for i in range(N):
            value = float(values[i]) if i < rank else 0.0
            k_s = kappa(s, value) if value else 0.0

            def density(u: float, value: float = value, k_s: float = k_s) -> float:
                k = kappa(u, value) if value else 0.0
                return 0.5 * w * beta(u) * sigma(u) * math.exp(k - k_s)

            rho = math.exp(kappa(t, value) - k_s) if value else 1.0
            target = z[:, i] if value else z_hat[:, i]
            clean[:, i] = target + rho * (z_hat[:, i] - target)
            clean[:, i] += integral(density, t, s) * z_g[:, i]
        x = mu(s) * clean @ vt + sigma(s) * eps

    found = p.solve(CPiGDM(w, transition=until(5)))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("std", [0.0, STD])
@pytest.mark.parametrize("name", SCHEDULES)
def test_operator_without_decomposition_needs_only_products(name: str, std: float) -> None:
    p = pose("mixture", "random", SCHEDULES[name], std)
    plain = Plain(p.operator)
    solver = PiGDM(1.5, "conjugate", iterations=30, transition=DDIM(8, 0.0, 0.6))
    found = p._replace(operator=plain).solve(solver)

    # conjugate gradients stop at a relative residual of 1e-5
    torch.testing.assert_close(found, p.solve(solver), rtol=0, atol=1e-4 if std else 1e-10)
    assert plain.batches == {len(p.m)}
    if not std:
        conjugate = CPiGDM(5.0, transition=DDIM(8, 0.0, 0.6))
        found = p._replace(operator=plain).solve(conjugate)
        torch.testing.assert_close(found, p.solve(conjugate), rtol=0, atol=1e-10)


class Plain(LinearOperator):
    """Another operator without its decomposition, which notes the batches it is asked for."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(operator.std)
        self.operator = operator
        self.batches: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.batches.add(len(x))
        return self.operator(x)

    def adjoint(self, m: Tensor) -> Tensor:
        self.batches.add(len(m))
        return self.operator.adjoint(m)

    def pinv(self, m: Tensor) -> Tensor:
        return self.operator.pinv(m)


def test_noise_that_differs_from_point_to_point() -> None:
    p = pose("mixture", "inpaint")
    p.operator.std = torch.linspace(0.02, 0.5, len(KEPT)).double().reshape(1, 1, 1, -1)
    solver = PiGDM(1.5, iterations=50, transition=DDIM(8, 0.0, 0.4))
    found = p._replace(operator=Plain(p.operator)).solve(solver)

    torch.testing.assert_close(found, p.solve(solver), rtol=0, atol=1e-4)
    # it matters
    p.operator.std = torch.full_like(p.operator.std, 0.02)
    assert rms(found - p.solve(solver)) > 1e-2


def test_conjugate_gradients_solve_each_system() -> None:
    root = torch.randn(5, 8, 8, dtype=torch.float64)
    matrices = root @ root.mT + torch.eye(8)
    b = torch.randn(5, 8, dtype=torch.float64)
    b[2] = 0
    z, left = cg(lambda v: torch.einsum("bij,bj->bi", matrices, v), b, 60, 1e-10)

    expected = torch.linalg.solve(matrices, b)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-8)  # conditions of about 30
    assert (left <= 1e-10).all()
    alone, _ = cg(lambda v: v @ matrices[3], b[3:4], 60, 1e-10)
    torch.testing.assert_close(alone[0], z[3], rtol=0, atol=1e-12)
    few, left = cg(lambda v: torch.einsum("bij,bj->bi", matrices, v), b, 2, 1e-10)
    error = b - torch.einsum("bij,bj->bi", matrices, few)
    assert left.tolist() == pytest.approx(
        [float(e.norm() / max(v.norm(), 1e-30)) for e, v in zip(error, b, strict=True)], rel=1e-9
    )


def test_tangent_is_the_jacobian() -> None:
    mirror = tiny_mirror().double()
    operator = Pullback(Select(-1, 2, 4, 0.1).double(), mirror)
    y = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    tangent = Tangent.of(operator, y)
    v, u = torch.randn_like(y), torch.randn_like(operator(y))

    for k in range(2):
        jacobian: Any = torch.autograd.functional.jacobian(operator, y[k : k + 1])
        jacobian = jacobian.reshape(8, 16)
        torch.testing.assert_close(tangent.jvp(v)[k].flatten(), jacobian @ v[k].flatten())
        torch.testing.assert_close(tangent.vjp(u)[k].flatten(), u[k].flatten() @ jacobian)
    assert torch.equal(tangent.value, operator(y).detach())


def test_damped_lift_through_a_linear_mirror_is_the_analytic_one() -> None:
    c, std, r2 = 0.25, STD, 0.3
    operator = Pullback(Select(-1, KEPT, N, std).double(), Affine(2.0, 1.0, c))
    y, m = (torch.randn(4, *s, dtype=torch.float64) for s in (SHAPE, (1, 1, len(KEPT))))
    lift, left = damped_lift(operator, m, y, r2, 5)

    expected = torch.zeros_like(y)
    expected[..., KEPT] = c / (c**2 + std**2 / r2) * (m - c * y[..., KEPT])
    torch.testing.assert_close(lift, expected, rtol=1e-12, atol=0)
    assert left.max() < 1e-5


def test_linear_mirror_scales_the_problem() -> None:
    """Solving with A c in mirror space is solving for a field c times as large."""

    p, c = pose("mixture", "inpaint", std=STD), 0.5
    pulled = Pullback(p.operator, Affine(1 / c, 0.0, c))
    inner = Select(-1, KEPT, N, STD / c).double()
    for solver in (PiGDM(1.5, transition=DDIM(8, 0.0, 0.4)), PiGDM(0.7, "conjugate")):
        found = p._replace(operator=pulled).solve(solver)
        scaled = p._replace(operator=inner, m=p.m / c).solve(solver)
        torch.testing.assert_close(found, scaled, rtol=0, atol=1e-4)


# the limit of many steps


def limit(
    p: Problem, right: Callable[[Tensor, float], Tensor], x: Tensor, a: float, b: float
) -> Tensor:
    def flat(t: float, x: Any) -> Any:
        return right(torch.from_numpy(x).reshape(-1, N), t).numpy().ravel()

    options: Any = {"method": "DOP853", "rtol": 1e-8, "atol": 1e-9}
    found = solve_ivp(flat, (a, b), x.numpy().ravel(), **options)
    return torch.from_numpy(found.y[:, -1]).reshape(-1, N)


def flow_of_pigdm(p: Problem, w: float, weighting: str) -> Tensor:
    """The end of the conditional probability flow, from 0.4 to 1e-3."""

    def right(x: Tensor, t: float) -> Tensor:
        a, b = mu(t), sigma(t)

        def lifted(x_hat: Tensor) -> Tensor:
            return strength(p, x_hat, b**2) if p.std else p.residual(x_hat)

        _, eps, d, g = p.diffusion(x, t, lifted)
        q = {"pigdm": w, "conjugate": w * a**2}[weighting]  # w_t / r²
        score = -eps / b + q * (d - b * g) / a
        return -0.5 * beta(t) * (x + score)

    return limit(p, right, p.start(mu(0.4), sigma(0.4)), 0.4, Until.last)


CASES: list[tuple[Weighting, str, str, float]] = [
    ("conjugate", "gaussian", "box", 2.0),
    ("conjugate", "mixture", "inpaint", 5.0),
    ("pigdm", "mixture", "random", 1.5),
]


@pytest.mark.parametrize(("weighting", "prior", "task", "w"), CASES)
def test_same_guidance_has_one_limit(
    weighting: Weighting, prior: str, task: str, w: float
) -> None:
    p = pose(prior, task)
    end = flow_of_pigdm(p, w, weighting)
    solvers: list[Callable[[DDIM], Sequential]] = [
        lambda grid: CPiGDM(w, weighting, transition=grid),
        lambda grid: CPiGDM(w, weighting, lam=-0.5, transition=grid),
        lambda grid: PiGDM(w, weighting, transition=grid),
        lambda grid: PiGDM(w, weighting, integrate=True, transition=grid),
    ]
    for build in solvers:
        error = {n: rms(p.solve(build(until(n))) - end) for n in (40, 160)}
        assert slope(error.__getitem__, [40, 160]) == pytest.approx(-1, abs=0.1)
        # errors of other noises: 0.0098 to 0.012 at 40 steps, 0.0029 to 0.0032 at 160
        assert 0.006 < error[40] < 0.024 and 0.0015 < error[160] < 0.006


def test_two_weightings_are_two_flows() -> None:
    p = pose("gaussian", "box")
    gap = rms(flow_of_pigdm(p, 2.0, "conjugate") - flow_of_pigdm(p, 2.0, "pigdm"))

    assert 0.04 < gap < 0.14


@pytest.mark.parametrize(("prior", "task"), [("gaussian", "random"), ("mixture", "box")])
def test_noisy_sampler_converges_to_the_noisy_flow(prior: str, task: str) -> None:
    w, p = 2.0, pose(prior, task, std=4 * STD)
    end = flow_of_pigdm(p, w, "conjugate")
    error = {n: rms(p.solve(CPiGDM(w, transition=until(n))) - end) for n in (40, 160)}

    without = flow_of_pigdm(p._replace(std=0.0), w, "conjugate")
    assert slope(error.__getitem__, [40, 160]) == pytest.approx(-1, abs=0.1)
    assert rms(end - without) > 5 * error[160]  # it is not the flow without noise


@pytest.mark.parametrize("task", ["inpaint", "random"])
def test_flow_converges_with_its_jacobian(task: str) -> None:
    w, p = 5.0, pose("mixture", task, FlowSchedule())

    def end(jacobian: float) -> Tensor:
        def right(x: Tensor, t: float) -> Tensor:
            _, v, d, g = p.flow(x, t)
            return v + w * t * (1 - t) * (d + jacobian * (1 - t) * g)

        return limit(p, right, p.start(0.6, 0.4), 0.6, 1 - Until.last)

    exact, without = end(1.0), end(0.0)
    solvers: list[Callable[[DDIM], Sequential]] = [
        lambda grid: CPiGDM(w, transition=grid),
        lambda grid: CPiGDM(w, lam=0.2, transition=grid),
        lambda grid: PiGDM(w, "conjugate", transition=grid),
        lambda grid: PiGDM(w, "conjugate", integrate=True, transition=grid),
    ]
    for build in solvers:
        found = {n: p.solve(build(until(n))) for n in (20, 80)}
        error = {n: rms(x - exact) for n, x in found.items()}
        assert slope(error.__getitem__, [20, 80]) == pytest.approx(-1, abs=0.1)
        assert rms(found[80] - without) > 10 * error[80]


def test_published_weight_of_flows_is_bayes() -> None:
    w, p = 0.5, pose("mixture", "box", FlowSchedule())
    times = np.linspace(0.6, 1, 6).tolist()
    x = p.start(0.6, 0.4)
    for t, s in itertools.pairwise(times):
        _, v, d, g = p.flow(x, t)
        gain = w * ((1 - t) ** 2 + t**2) / (t * (1 - t))
        x = x + (s - t) * (v + gain * (d + (1 - t) * g))

    solver = PiGDM(w, "bayes", transition=DDIM(5, 0.0, 0.4))
    torch.testing.assert_close(p.solve(solver), x, rtol=0, atol=1e-10)


# what the guidance achieves


def law(p: Problem, solver: Sequential) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of the answers to one measurement, from their dependence on the
    noise, which is affine."""

    n = N + 8
    one = p._replace(m=p.m[:1].expand(n, *p.m.shape[1:]))
    xi = noise([(seed, "start") for seed in range(n)], SHAPE, p.m).flatten(1)
    design = torch.cat([xi, torch.ones(n, 1)], dim=1)
    answers = solver(one.denoiser, one.operator, one.m, SHAPE, one.seeds).y.flatten(1)
    fit = torch.linalg.lstsq(design, answers).solution
    assert (design @ fit - answers).abs().max() < 1e-10
    return fit[N], fit[:N].T @ fit[:N]


@pytest.mark.parametrize("integrate", [False, True])
@pytest.mark.parametrize("task", ["box", "random"])
def test_bayes_is_exact_for_a_white_prior(task: str, integrate: bool) -> None:
    p = pose("gaussian", task, std=STD)
    p = p._replace(denoiser=GaussianDenoiser(torch.eye(N, dtype=torch.float64)))
    noisy = p.matrix @ p.matrix.T + p.std**2 * torch.eye(len(p.matrix))
    gain = p.matrix.T @ torch.linalg.inv(noisy)
    mean, cov = gain @ p.m[0].flatten(), torch.eye(N) - gain @ p.matrix

    laws = {n: law(p, PiGDM(1.0, "bayes", integrate, transition=DDIM(n, 0.0))) for n in (40, 80)}
    error = {n: float((found - cov).abs().max()) for n, (_, found) in laws.items()}
    assert 1.7 < error[40] / error[80] < 2.2  # first order
    # what is left is of second order, and 0.7 % of the mean is in the field at the first time
    for k, exact in enumerate((mean, cov)):
        limit = 2 * laws[80][k] - laws[40][k]
        torch.testing.assert_close(limit, exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("task", TASKS)
def test_stronger_guidance_fits_better(task: str) -> None:
    p = pose("mixture", task)
    answers = {
        w: p.solve(CPiGDM(w, transition=DDIM(20, 0.0, 0.4)))
        for w in (0.0, 0.5, 1.0, 2.0, 5.0, 15.0, 50.0)
    }
    misfits = [rms(x @ p.matrix.T - p.m.flatten(1)) for x in answers.values()]
    assert misfits == sorted(misfits, reverse=True)
    assert misfits[-1] < 0.2 * misfits[0]


@pytest.mark.parametrize("std", [0.0, STD])
@pytest.mark.parametrize("task", TASKS)
def test_projection_fits_exactly(task: str, std: float) -> None:
    p = pose("mixture", task, std=std)
    grid = DDIM(5, 0.0, 0.4)
    for plain, solver in (
        (CPiGDM(2.0, transition=grid), CPiGDM(2.0, project=True, transition=grid)),
        (PiGDM(2.0, transition=grid), PiGDM(2.0, project=True, transition=grid)),
    ):
        x = p.solve(solver)
        torch.testing.assert_close(x @ p.matrix.T, p.m.flatten(1), rtol=0, atol=1e-10)
        # the nearest such fields
        moved = x - p.solve(plain)
        torch.testing.assert_close(moved @ p.projector, moved, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["conjugate", "integrated"])
def test_codec_is_followed_as_far_as_the_weight_says(name: str) -> None:
    p = pose("mixture")
    operator = Quantise(0.5, 0.0).double()
    m = operator(mixture().sample(range(8)).reshape(-1, *SHAPE))
    p = p._replace(operator=operator, m=m, h=m.flatten(1))  # its pseudo-inverse is the identity
    grid = DDIM(10, 0.0, 0.4)

    def answer(w: float) -> Tensor:
        if name == "conjugate":
            return p.solve(CPiGDM(w, transition=grid))
        return p.solve(PiGDM(w, "conjugate", integrate=True, transition=grid))

    def misfit(x: Tensor) -> float:
        return rms(operator(x) - p.m.flatten(1))

    answers = [answer(w) for w in (0.0, 1.0, 5.0, 20.0)]
    misfits = [misfit(x) for x in answers]
    assert misfits == sorted(misfits, reverse=True) and misfits[-1] < 0.4 * misfits[0]
    free = p.start(mu(0.4), sigma(0.4))
    for t, s in itertools.pairwise(np.linspace(0.4, 0, 11).tolist()):
        x_hat, eps, *_ = p.diffusion(free, t)
        free = mu(s) * x_hat + sigma(s) * eps
    torch.testing.assert_close(answers[0], free, rtol=0, atol=1e-10)


def test_noise_of_the_transition_replaces_predicted_noise() -> None:
    p, w = pose("mixture", "inpaint"), 5.0
    n, grid = 6, DDIM(6, 0.7, 0.4)
    x = p.start(mu(0.4), sigma(0.4))
    for k in range(n):
        t, s = 0.4 * (1 - k / n), 0.4 * (1 - (k + 1) / n)
        _, eps, *_ = p.diffusion(x, t)
        # the clean field to which the step without noise goes
        level = list(descend(DDIM(n, 0.0, 0.4), p.denoiser.schedule, p.seeds))[k]
        run = Run(p.denoiser, p.operator, p.m)
        solver = CPiGDM(w, transition=DDIM(n, 0.0, 0.4))
        solver.begin(run, SHAPE)
        with torch.no_grad():
            plain, _ = solver.step(run, x.reshape(-1, *SHAPE), level)
        clean = (plain.flatten(1) - sigma(s) * eps) / mu(s)
        std = 0.7 * sigma(s) / sigma(t) * math.sqrt(1 - (mu(t) / mu(s)) ** 2)
        z = noise([(seed, k) for seed in p.seeds], SHAPE, x).flatten(1)
        x = mu(s) * clean + math.sqrt(sigma(s) ** 2 - std**2) * eps + std * z

    found = p.solve(CPiGDM(w, transition=grid))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


# what is refused


def test_projection_needs_a_linear_operator() -> None:
    p = pose()
    pulled = Pullback(p.operator, Affine())
    for solver in (CPiGDM(project=True), PiGDM(project=True)):
        for operator in (pulled, Quantise(0.5)):
            with pytest.raises(InputError, match="linear operator.*namm.IdentityMirror"):
                solver(p.denoiser, operator, p.m, SHAPE, p.seeds)


@pytest.mark.parametrize("weighting", ["pigdm", "bayes"])
def test_guidance_of_a_flow_is_infinite_without_signal(weighting: Weighting) -> None:
    p = pose(schedule=FlowSchedule())
    for solver in (
        PiGDM(1.0, weighting),
        PiGDM(1.0, weighting, integrate=True),
        CPiGDM(1.0, weighting),
    ):
        with pytest.raises(InputError, match="infinite .* 'conjugate', or start below 1"):
            p.solve(solver)
    p.solve(PiGDM(1.0, weighting, transition=DDIM(5, 0.0, 0.6)))
    p.solve(CPiGDM(1.0, weighting, transition=DDIM(5, 0.0, 0.6)))


@pytest.mark.parametrize("solver", [PiGDM, CPiGDM])
def test_start_from_a_guess_needs_a_pseudo_inverse(solver: Any) -> None:
    p = pose()
    with pytest.raises(InputError, match="Residual has no pseudo-inverse.*a start of 1"):
        options = (Residual(Total(), 1.0), torch.zeros(8, 1).double(), SHAPE, p.seeds)
        solver(transition=DDIM(5, 0.0, 0.4))(p.denoiser, *options)
    p.denoiser.reset_cost()
    solver(transition=DDIM(5, 0.0))(p.denoiser, *options)
    assert p.denoiser.calls == 5
