"""Tasks of trajectories: waypoints, heights, obstacles and the arm."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from constraints import (
    Constraint,
    InputError,
    MinimumHeight,
    Obstacle,
    PlanarArm,
    Sum,
    Waypoints,
    noise,
)

TASKS: dict[str, Callable[[], Constraint]] = {
    "waypoints": lambda: Waypoints([0, 4], [[0.5, -0.5], [1.0, 0.0]]),
    "obstacle": lambda: Obstacle([0.2, 0.1], 0.8),
    "height": lambda: MinimumHeight(0.3),
    "effector": lambda: Waypoints([3], [[0.5, 1.0]], PlanarArm()),
    "clearance": lambda: Obstacle([0.9, 0.4], 0.7, PlanarArm([1.0, 0.5], joints=True)),
    "arm's height": lambda: MinimumHeight(0.2, 1, [0, 2], PlanarArm([0.8, 0.7], joints=True)),
}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Constraint:
    return TASKS[request.param]()


def paths(n: int, *shape: int) -> Tensor:
    return noise([("path", i) for i in range(n)], shape or (2, 6, 1)).double()


# the arm
@pytest.mark.parametrize(
    ("angles", "elbow", "end"),
    [
        ((0, 0), (1, 0), (1.5, 0)),
        ((90, 0), (0, 1), (0, 1.5)),
        ((0, 90), (1, 0), (1, 0.5)),
        ((90, 90), (0, 1), (-0.5, 1)),
        ((180, 180), (-1, 0), (-0.5, 0)),
    ],
)
def test_arm_in_known_postures(
    angles: tuple[int, int], elbow: tuple[float, float], end: tuple[float, float]
) -> None:
    q = torch.tensor(angles, dtype=torch.float64).deg2rad().reshape(1, 2, 1, 1)
    joints = PlanarArm([1.0, 0.5], joints=True)(q)

    assert joints.shape == (1, 2, 1, 2)
    wanted = torch.tensor([elbow, end], dtype=torch.float64)
    torch.testing.assert_close(joints[0, :, 0].T, wanted, rtol=0, atol=1e-15)
    assert torch.equal(PlanarArm([1.0, 0.5])(q), joints[..., 1:])


def test_links_keep_their_lengths_and_turn_with_the_first_joint() -> None:
    lengths = [0.5, 1.0, 0.25, 2.0]
    q = 2 * paths(7, 4, 5, 1)
    joints = PlanarArm(lengths, joints=True)(q)
    links = torch.cat([joints[..., :1], joints.diff(dim=-1)], dim=-1)
    turned = PlanarArm(lengths, joints=True)(q + torch.tensor([0.3, 0, 0, 0]).reshape(4, 1, 1))

    length = torch.linalg.vector_norm(links, dim=1)
    torch.testing.assert_close(length, torch.tensor(lengths).double().expand_as(length))
    cos, sin = math.cos(0.3), math.sin(0.3)
    wanted = torch.einsum(
        "ij,bjtp->bitp", torch.tensor([[cos, -sin], [sin, cos]]).double(), joints
    )
    torch.testing.assert_close(turned, wanted, rtol=0, atol=1e-7)  # 0.3 in float32


def test_closed_inverse_kinematics_reach_the_waypoints() -> None:
    a, b = 1.2, 0.7
    targets = torch.tensor([[1.0, 0.5], [-0.6, 1.1], [0.0, -0.9]]).double()
    x, y = targets.unbind(1)
    elbow = ((x**2 + y**2 - a**2 - b**2) / (2 * a * b)).acos()
    shoulder = torch.atan2(y, x) - torch.atan2(b * elbow.sin(), a + b * elbow.cos())
    q = torch.stack([shoulder, elbow])[None, :, :, None]
    reach = Waypoints([0, 1, 2], targets.tolist(), PlanarArm([a, b]))

    assert float(reach(q)) <= 1e-15
    assert float(reach(q + 0.1)) > 0.01


# the tasks
def test_residuals_of_known_paths() -> None:
    # along the first axis, at the height 0.5
    x = torch.stack([torch.linspace(-2, 2, 5), torch.full((5,), 0.5)])[None, :, :, None]

    waypoints = Waypoints([0, 3], [[-2.0, 0.5], [1.0, 1.0]])
    assert waypoints.residual(x).squeeze().tolist() == [[0, 0], [0, -0.5]]
    assert waypoints(x).item() == 0.125
    obstacle = Obstacle([0.0, 0.5], 1.25)
    assert obstacle.residual(x).flatten().tolist() == [0, 0.25, 1.25, 0.25, 0]
    assert MinimumHeight(0.75).residual(x).flatten().tolist() == [0.25] * 5
    assert MinimumHeight(-1.0, 0, [0, 4]).residual(x).flatten().tolist() == [1, 0]


def test_obstacle_is_left_along_the_radius_in_three_dimensions() -> None:
    ball = Obstacle([1.0, 0.0, -1.0], 3.0)
    x = 2 * paths(20, 3, 8, 2)
    depth = ball.residual(x)
    away = x - torch.tensor([1.0, 0.0, -1.0]).reshape(3, 1, 1)
    out = x + depth * away / torch.linalg.vector_norm(away, dim=1, keepdim=True)

    assert depth.shape == (20, 1, 8, 2) and (depth > 0).any()
    assert ball(out).max() <= 1e-15


def test_several_points_are_judged_one_by_one() -> None:
    x = paths(4, 2, 6, 3)
    for task in (Waypoints([1], [[0.0, 1.0]]), Obstacle([0.0, 0.0], 1.0), MinimumHeight(0.5)):
        alone = torch.cat([task.residual(x[..., p : p + 1]) for p in range(3)], dim=-1)
        assert torch.equal(task.residual(x), alone)


def test_gradient_is_finite_at_the_centre_of_an_obstacle() -> None:
    x = torch.tensor([0.2, 0.1]).reshape(1, 2, 1, 1).expand(1, 2, 6, 1).clone().requires_grad_()
    for distance in (
        TASKS["obstacle"]()(x),
        Obstacle([1.0, 0.0], 0.5, PlanarArm([1.0]))(x[:, :1]),
    ):
        (gradient,) = torch.autograd.grad(distance.sum(), x)
        assert distance > 0.2 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("q", [0.0, math.pi])
def test_gradient_is_finite_where_the_arm_is_singular(q: float) -> None:
    """Stretched or folded, the end cannot move along the arm."""

    x = torch.tensor([0.4, q], dtype=torch.float64).reshape(1, 2, 1, 1).requires_grad_()
    reach = Waypoints([0], [[0.0, 0.0]], PlanarArm([1.0, 0.5]))
    (gradient,) = torch.autograd.grad(reach.residual(x).square().sum(), x)

    torch.testing.assert_close(gradient, torch.zeros_like(x), rtol=0, atol=1e-15)


def test_gradients_and_samples(task: Constraint) -> None:
    x = paths(8).requires_grad_()

    assert torch.autograd.gradcheck(task.residual, (x,))
    worst = int(task(x).argmax())
    (gradient,) = torch.autograd.grad(task(x)[worst], x)
    assert gradient.flatten(1).any(dim=1).nonzero().flatten().tolist() == [worst]
    for y in (x.detach(), x.detach().float()):
        assert torch.equal(task(y), torch.cat([task(field[None]) for field in y]))
        assert task(y).dtype == y.dtype


def test_tasks_are_joined_by_a_sum() -> None:
    x = paths(5)
    terms = [TASKS[name]() for name in ("waypoints", "obstacle", "height")]

    torch.testing.assert_close(Sum(terms)(x), sum(term(x) for term in terms))
    Sum(terms).check_shape(x)


def test_waypoints_know_how_many_numbers_are_free() -> None:
    waypoints = Waypoints([0, 4], [[0.5, -0.5], [1.0, 0.0]])
    x = paths(1)
    jacobian = torch.autograd.functional.jacobian(waypoints.residual, x).reshape(-1, x.numel())

    assert waypoints.unknowns((2, 6, 1)) == 12 - int(torch.linalg.matrix_rank(jacobian)) == 8
    assert TASKS["effector"]().unknowns((2, 6, 1)) is None


@pytest.mark.parametrize(
    ("task", "shape", "message"),
    [
        (Waypoints([0, 6], [[0.0, 0.0]] * 2), (2, 6, 1), r"frame 6\b"),
        (Waypoints([0], [[0.0, 0.0, 0.0]]), (2, 6, 1), r"Waypoints.*\b3\b.*\b2\b"),
        (Waypoints([0], [[0.0, 0.0]]), (3, 6, 1), r"Waypoints.*\b2\b.*\b3\b.*kinematics"),
        (Obstacle([0.0, 0.0], 1.0), (2, 6), r"\(1, 2, 6\)"),
        (MinimumHeight(0.0, channel=2), (2, 6, 1), r"MinimumHeight.*\b3\b.*\b2\b"),
        (MinimumHeight(0.0, index=[9]), (2, 6, 1), "frame 9"),
        (MinimumHeight(0.0, kinematics=PlanarArm()), (3, 6, 1), r"PlanarArm|\b2 joints"),
    ],
    ids=str,
)
def test_trajectory_that_does_not_fit_is_refused(
    task: Constraint, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        task.check_shape(torch.zeros(1, *shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Waypoints([], []), r"frames.*\[\]"),
        (lambda: Waypoints([1, 1], [[0.0], [0.0]]), r"frames.*\[1, 1\]"),
        (lambda: Waypoints([-1], [[0.0, 0.0]]), r"index.*\[-1\]"),
        (lambda: Waypoints([0, 1], [[0.0, 0.0]]), r"\b2 frames.*\b1\b"),
        (lambda: Waypoints([0, 1], [[0.0], [0.0, 1.0]]), r"Waypoints"),
        (lambda: Waypoints([0], [[0.0, math.nan]]), r"targets.*nan"),
        (lambda: Obstacle([0.0, 0.0], -1.0), r"radius.*-1\.0"),
        (lambda: Obstacle([0.0, math.inf], 1.0), r"centre.*inf"),
        (lambda: MinimumHeight(math.nan), r"height.*nan"),
        (lambda: MinimumHeight(0.0, index=[]), r"frames.*\[\]"),
        (lambda: PlanarArm([1.0, 0.0]), r"lengths.*0\.0"),
        (lambda: PlanarArm([1.0, math.nan]), r"lengths.*nan"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
