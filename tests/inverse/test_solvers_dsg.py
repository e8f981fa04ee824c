"""DSG against its pseudo-code, and the sphere of its steps."""

import math

import pytest
import torch

from constraints import noise
from inverse import DSG, Residual, Run
from mdm import DDIM, descend
from tests.inverse.grids import (
    SEEDS,
    SHAPE,
    Anything,
    Grid,
    N,
    mixture,
    norm_of_misfit,
    per_sample,
    projection,
)


# DSG
@pytest.mark.parametrize("gamma", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("interval", [1, 3])
def test_dsg_is_its_pseudo_code(interval: int, gamma: float) -> None:
    operator, matrix, m = projection()
    grid = Grid(10)
    x = grid.start()
    for k, t, s, c, std in grid.levels():
        x = x.detach().requires_grad_()
        e, d = grid.predict(x, t)
        (g,) = torch.autograd.grad(norm_of_misfit(matrix, m, d).sum(), x)
        mean = math.sqrt(grid.kept(s)) * d.detach() + c * e.detach()
        z = std * grid.noise(k)
        if s == 0:
            x = d.detach()
        elif k % interval:
            x = mean + z
        else:
            r = math.sqrt(N) * std
            v = z + gamma * (-r * g / (per_sample(g) + 1e-8) - z)
            x = mean + r * v / (per_sample(v) + 1e-8)
            torch.testing.assert_close(
                per_sample(x - mean).flatten(), torch.full((4,), r).double()
            )

    found = DSG(gamma, interval, transition=DDIM(10))(mixture(), operator, m, SHAPE, SEEDS)
    torch.testing.assert_close(found.noisy, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("transition", [DDIM(12), DDIM(12, 0.5)])
def test_guided_step_of_dsg_lands_on_its_sphere(transition: DDIM) -> None:
    operator, _, m = projection()
    denoiser, y = mixture(), noise([(seed,) for seed in SEEDS], SHAPE, m)
    zero = Residual(Anything())
    for level in descend(transition, denoiser.schedule, SEEDS):
        radius = torch.full((4,), 4 * level.step.std).double()
        for gamma in (0.0, 0.4, 1.0):
            y_s, mean = DSG(gamma).step(Run(denoiser, operator, m), None, y, level)
            # 1e-8 keeps a zero from being divided by
            torch.testing.assert_close(per_sample(y_s - mean).flatten(), radius, rtol=1e-5, atol=0)
            if gamma == 0 and level.step.std:
                z = level.noise(y)
                random = mean + 4 * level.step.std * z / per_sample(z)
                torch.testing.assert_close(y_s, random, rtol=0, atol=1e-6)
            if gamma == 0.4:
                # nothing to descend: a random point of the sphere
                y_s, mean = DSG(gamma).step(Run(denoiser, zero, 0 * m[:, 0, :1]), None, y, level)
                torch.testing.assert_close(
                    per_sample(y_s - mean).flatten(), radius, rtol=1e-5, atol=0
                )
