"""The conjugate integrator of PiGDM against its formulas, typed a second time."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from inverse import CPiGDM
from mdm import DDIM, FlowSchedule
from tests.inverse.poses import (
    SCHEDULES,
    STD,
    TASKS,
    N,
    beta,
    big_b,
    integral,
    kappa,
    mu,
    phis,
    pose,
    rms,
    sigma,
    slope,
    until,
)


@pytest.mark.parametrize("name", SCHEDULES)
def test_lambda_alone_vanishes_with_the_step(name: str) -> None:
    p = pose("mixture", schedule=SCHEDULES[name])

    def gap(n: int) -> float:
        moved = p.solve(CPiGDM(0.0, lam=-1.0, transition=until(n)))
        return rms(moved - p.solve(CPiGDM(0.0, transition=until(n))))

    assert gap(5) > 1e-4
    assert slope(gap, [20, 80]) == pytest.approx(-1, abs=0.1)


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
        _, eps, _, g = p.diffusion(x, t)
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
        _, v, _, g = p.flow(x, t)

        def area(f: Callable[[float], float], k: int, t: float = t, s: float = s) -> float:
            return integral(lambda u: f(u) * math.exp(lam * u + k * kappa(u, w)), t, s)

        bar = bar + lam * bar * (s - t) + area(lambda u: w * u * (1 - u), 1) * p.h
        bar = bar + both(v, area(lambda u: 1.0, 0), area(lambda u: 1 - w * u * (1 - u) ** 2, 1))
        bar = bar + both(g, *(area(lambda u: w * u * (1 - u) ** 2, k) for k in (0, 1)))
    x = math.exp(-lam) * both(bar, 1, math.exp(-kappa(1, w)))

    found = p.solve(CPiGDM(w, lam=lam, transition=DDIM(5, 0.0, 0.4)))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


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
