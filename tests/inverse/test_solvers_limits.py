"""The limits of PiGDM and of its integrator, as their steps become small."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from inverse import CPiGDM, PiGDM, Sequential
from inverse.solvers.conjugate import Weighting
from mdm import DDIM, FlowSchedule
from tests.inverse.poses import STD, N, Problem, Until, beta, mu, pose, rms, sigma, slope, until


# noise in the measurement
def strength(p: Problem, x_hat: Tensor, r2: float) -> Tensor:
    """H^T (r² H H^T + std²)^-1 (m - H x), times r²."""

    system = r2 * p.matrix @ p.matrix.T + p.std**2 * torch.eye(len(p.matrix))
    misfit = p.m.flatten(1) - x_hat @ p.matrix.T
    return r2 * torch.linalg.solve(system, misfit.T).T @ p.matrix


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
