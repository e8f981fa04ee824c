"""How closely PiGDM and its integrator fit the measurements, and where they do not apply."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import InputError, noise
from inverse import CPiGDM, PiGDM, Pullback, Quantise, Residual, Run
from inverse.solvers.conjugate import Weighting
from mdm import DDIM, FlowSchedule, descend
from tests.inverse.poses import SHAPE, STD, TASKS, mixture, mu, pose, rms, sigma
from tests.problems import Affine, Total


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
        state = solver.begin(run, SHAPE)
        with torch.no_grad():
            plain, _ = solver.step(run, state, x.reshape(-1, *SHAPE), level)
        clean = (plain.flatten(1) - sigma(s) * eps) / mu(s)
        std = 0.7 * sigma(s) / sigma(t) * math.sqrt(1 - (mu(t) / mu(s)) ** 2)
        z = noise([(seed, k) for seed in p.seeds], SHAPE, x).flatten(1)
        x = mu(s) * clean + math.sqrt(sigma(s) ** 2 - std**2) * eps + std * z

    found = p.solve(CPiGDM(w, transition=grid))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


# refusals
def test_projection_needs_a_linear_operator() -> None:
    p = pose()
    pulled = Pullback(p.operator, Affine())
    for solver in (CPiGDM(project=True), PiGDM(project=True)):
        for operator in (pulled, Quantise(0.5)):
            with pytest.raises(InputError, match="IdentityMirror"):
                solver(p.denoiser, operator, p.m, SHAPE, p.seeds)


@pytest.mark.parametrize("weighting", ["pigdm", "bayes"])
def test_guidance_of_a_flow_is_infinite_without_signal(weighting: Weighting) -> None:
    p = pose(schedule=FlowSchedule())
    for solver in (
        PiGDM(1.0, weighting),
        PiGDM(1.0, weighting, integrate=True),
        CPiGDM(1.0, weighting),
    ):
        with pytest.raises(InputError, match=r"'conjugate'"):
            p.solve(solver)
    p.solve(PiGDM(1.0, weighting, transition=DDIM(5, 0.0, 0.6)))
    p.solve(CPiGDM(1.0, weighting, transition=DDIM(5, 0.0, 0.6)))


@pytest.mark.parametrize("solver", [PiGDM, CPiGDM])
def test_start_from_a_guess_needs_a_pseudo_inverse(solver: Any) -> None:
    p = pose()
    with pytest.raises(InputError, match=r"Residual.*start"):
        options = (Residual(Total(), 1.0), torch.zeros(8, 1).double(), SHAPE, p.seeds)
        solver(transition=DDIM(5, 0.0, 0.4))(p.denoiser, *options)
    p.denoiser.reset_cost()
    solver(transition=DDIM(5, 0.0))(p.denoiser, *options)
    assert p.denoiser.calls == 5
