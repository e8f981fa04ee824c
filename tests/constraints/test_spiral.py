"""The spiral: the distance to its nearest point, and the gradient of that distance."""

import math

import pytest
import torch

from constraints import Spiral, noise


# the spiral
@pytest.mark.parametrize(("turns", "scale"), [(2.0, 2.0), (0.7, 1.0), (4.0, 3.0)])
def test_distance_is_that_to_the_nearest_point(turns: float, scale: float) -> None:
    spiral = Spiral(turns, scale)
    x = 1.5 * scale * noise([(0, i) for i in range(300)], (2, 1, 1)).double()
    s = torch.linspace(0, 1, 40_001, dtype=torch.float64)
    wanted = torch.cdist(x.flatten(1), spiral.curve(s)).amin(dim=1)
    found = spiral(x)
    spacing = scale * math.hypot(1, 2 * math.pi * turns) / 40_000

    # the nearest sample is within half a spacing of the nearest point, at a right angle
    assert (found <= wanted + 1e-12).all()
    assert (wanted <= (found**2 + (spacing / 2) ** 2).sqrt() * (1 + 1e-6)).all()
    assert spiral.residual(x).shape == (300, 1, 1, 1)
    torch.testing.assert_close(spiral(x.float()).double(), spiral(x), rtol=0, atol=4e-6)


def test_distance_vanishes_on_the_curve() -> None:
    spiral = Spiral()
    x = spiral.curve(torch.linspace(0, 1, 777, dtype=torch.float64))[:, :, None, None]
    x.requires_grad_()
    distance = spiral(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)

    assert distance.max() <= 1e-13
    assert torch.isfinite(gradient).all()


def test_gradient_is_a_unit_step_away_from_the_curve() -> None:
    spiral = Spiral()
    x = 3 * noise([(1, i) for i in range(200)], (2, 1, 1)).double()
    x.requires_grad_()
    distance = spiral(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)

    torch.testing.assert_close(length, torch.ones_like(length), rtol=0, atol=1e-12)
    with torch.no_grad():
        nearest = x - distance[:, None, None, None] * gradient
        assert spiral(nearest).max() <= 1e-12
    assert torch.autograd.gradcheck(spiral, x[:20].detach().requires_grad_(), atol=1e-6)


def test_positions_are_judged_one_by_one() -> None:
    spiral, x = Spiral(), noise([(0, i) for i in range(4)], (2, 3, 5)).double()

    residual = spiral.residual(x)
    assert residual.shape == (4, 1, 3, 5)
    alone = spiral(x[1:2, :, 2:, 4:])
    torch.testing.assert_close(alone[0], residual[1, 0, 2, 4], rtol=0, atol=1e-14)
