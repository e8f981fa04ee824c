"""PiGDM against its formulas, typed a second time."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import InputError, noise
from inverse import CPiGDM, LinearOperator, PiGDM, Pullback, Select, Sequential
from inverse.solvers.conjugate import Weighting
from mdm import DDIM, ChainSampler, FlowSchedule, GaussianDenoiser
from tests.inverse.poses import KEPT, SCHEDULES, SHAPE, STD, N, Problem, beta, mu, pose, rms, sigma
from tests.problems import Affine, gaussian


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


def test_linear_mirror_scales_the_problem() -> None:
    """Solving with A c in mirror space is solving for a field c times as large."""

    p, c = pose("mixture", "inpaint", std=STD), 0.5
    pulled = Pullback(p.operator, Affine(1 / c, 0.0, c))
    inner = Select(-1, KEPT, N, STD / c).double()
    for solver in (PiGDM(1.5, transition=DDIM(8, 0.0, 0.4)), PiGDM(0.7, "conjugate")):
        found = p._replace(operator=pulled).solve(solver)
        scaled = p._replace(operator=inner, m=p.m / c).solve(solver)
        torch.testing.assert_close(found, scaled, rtol=0, atol=1e-4)


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


# the effect of the guidance
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


def test_integral_that_diverges_is_refused() -> None:
    solver = PiGDM(1.0, "bayes", integrate=True, transition=DDIM(4, eta=0.0))
    operator = Select(-1, 2, 4, 0.0)
    m = torch.zeros(1, 1, 3, 2)
    with pytest.raises(InputError, match=r"CPiGDM"):
        solver(gaussian(dtype=torch.float32), operator, m, (1, 3, 4), [0])
