"""LGD-MC against its pseudo-code, and the gradient of its loss."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from constraints import noise
from inverse import DPS, LGDMC, Run
from mdm import DDIM, FlowSchedule, Schedule, VPSchedule, descend
from tests.inverse.grids import (
    SEEDS,
    SHAPE,
    Grid,
    differences,
    mixture,
    norm_of_misfit,
    per_sample,
    projection,
)


# LGD-MC
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("radius", ["posterior", "published"])
def test_lgd_is_its_pseudo_code(radius: Any, normalise: bool) -> None:
    operator, matrix, m = projection()
    grid, n = Grid(8), 5
    x = grid.start()
    for k, t, s, c, std in grid.levels():
        ratio = math.sqrt((1 - grid.kept(t)) / grid.kept(t)) if radius == "posterior" else std
        r = ratio / math.sqrt(1 + ratio**2)
        if radius == "posterior":
            assert r == pytest.approx(math.sqrt(1 - grid.kept(t)), rel=1e-12)
        x = x.detach().requires_grad_()
        e, d = grid.predict(x, t)
        z = noise([(seed, k, "lgd") for seed in SEEDS], (n, *SHAPE), x).unbind(dim=1)
        chances = [torch.exp(-norm_of_misfit(matrix, m, d + r * z_i)) for z_i in z]
        (g,) = torch.autograd.grad(-torch.log(sum(chances) / n).sum(), x)
        if normalise:
            g = g / per_sample(g)
        mean = math.sqrt(grid.kept(s)) * d.detach() + c * e.detach()
        x = mean + std * grid.noise(k) - 0.05 * g

    solver = LGDMC(n, 0.05, normalise, radius, transition=DDIM(8))
    torch.testing.assert_close(
        solver(mixture(), operator, m, SHAPE, SEEDS).y, x, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("power", [1, 2])
def test_ball_of_no_radius_is_the_point(power: int) -> None:
    operator, _, m = projection()
    for eta, tolerance in ((0.0, 1e-10), (1e-5, 1e-3)):
        transition = DDIM(10, eta)
        ball = LGDMC(4, 0.01, radius="published", power=power, transition=transition)
        point = DPS(0.01, power=power, transition=transition)
        a, b = (s(mixture(), operator, m, SHAPE, SEEDS).y for s in (ball, point))
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    wide = LGDMC(4, 0.01, power=power, transition=transition)
    assert (wide(mixture(), operator, m, SHAPE, SEEDS).y - b).abs().max() > 1e-2


@pytest.mark.parametrize("schedule", [VPSchedule(), FlowSchedule()])
def test_gradient_of_lgd_is_that_of_its_loss(schedule: Schedule) -> None:
    operator, matrix, m = projection()
    denoiser, n = mixture(schedule), 3
    level = list(descend(DDIM(10), denoiser.schedule, SEEDS))[6]
    x = noise([(seed,) for seed in SEEDS], SHAPE, m)
    run = Run(denoiser, operator, m)
    _, guided = LGDMC(n, 0.3).step(run, None, x, level)
    _, plain = LGDMC(n, 0.0).step(run, None, x, level)
    r = level.sigma_t / math.sqrt(level.alpha_t**2 + level.sigma_t**2)
    z = noise([(seed, 6, "lgd") for seed in SEEDS], (n, *SHAPE), x).unbind(dim=1)

    def loss(x: Tensor) -> Tensor:
        d = denoiser(x, level.t)
        values = torch.stack([norm_of_misfit(matrix, m, d + r * z_i) for z_i in z])
        return -torch.logsumexp(-values, dim=0)

    torch.testing.assert_close(
        (guided - plain).flatten(1), -0.3 * differences(loss, x), rtol=1e-6, atol=1e-8
    )
