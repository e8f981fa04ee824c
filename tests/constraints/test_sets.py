"""Closed-form sets: their residuals, and the theorems that make a map a projection."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from constraints import Ball, Box, ConvexSet, InputError, Linear, Simplex, Sum, noise

ROWS = [[1.0, 2.0, 0.0, -1.0, 0.5, 3.0], [0.0, 1.0, 1.0, 0.0, 0.0, -2.0]]


# each on fields of 3 channels at 2 positions
SETS: dict[str, Callable[[], ConvexSet]] = {
    "linear": lambda: Linear(ROWS, [1.0, -2.0]),
    "linear, redundant": lambda: Linear([*ROWS, [3.0, 6.0, 0.0, -3.0, 1.5, 9.0]], [1, -2, 3]),
    "linear, per position": lambda: Linear([[1.0, 2.0, -1.0]], [0.5], dim=1),
    "box": lambda: Box(-0.5, 0.25),
    "box, per channel": lambda: Box([-1.0, 0.0, -math.inf], [-0.5, math.inf, 0.3]),
    "ball": lambda: Ball(0.7, 0.2),
    "ball, per position": lambda: Ball(0.5, [0.1, -0.2, 0.3], dim=1),
    "simplex": lambda: Simplex(),
    "simplex, last axis": lambda: Simplex(2.5, dim=-1),
}


@pytest.fixture(params=SETS)
def convex(request: pytest.FixtureRequest) -> ConvexSet:
    return SETS[request.param]()


def fields(n: int, name: str = "x", scale: float = 2.0) -> Tensor:
    return scale * noise([(name, i) for i in range(n)], (3, 2)).double()


# properties of a projection
def test_projection_satisfies_the_constraint(convex: ConvexSet) -> None:
    projected = convex.nearest(fields(200))

    assert projected.shape == (200, 3, 2)
    assert convex(projected).max() <= 1e-13  # rounding of products below 100
    assert (convex(fields(200)) > 1e-3).any()


def test_no_point_of_the_set_is_on_the_side_of_x(convex: ConvexSet) -> None:
    """The variational inequality, which the nearest point alone satisfies."""

    x, z = fields(60), convex.nearest(fields(300, "z"))
    z = torch.cat([z, z[1:] + torch.rand(299, 1, 1) * (z[:-1] - z[1:])])  # and inner ones
    assert convex(z).max() <= 1e-13
    projected = convex.nearest(x)
    away, along = (x - projected).flatten(1), z.flatten(1) - projected.flatten(1)[:, None]

    assert (away.norm(dim=1) > 0.1).any()
    # rounding of numbers below 20
    assert (away[:, None] * along).sum(dim=-1).max() <= 1e-13


def test_projection_leaves_the_set_as_it_is(convex: ConvexSet) -> None:
    projected = convex.nearest(fields(200))

    torch.testing.assert_close(convex.nearest(projected), projected, rtol=0, atol=1e-14)


def test_projection_does_not_expand_distances(convex: ConvexSet) -> None:
    x, z = fields(300), fields(300, "z")
    moved = (convex.nearest(x) - convex.nearest(z)).flatten(1).norm(dim=1)

    assert (moved <= (x - z).flatten(1).norm(dim=1) + 1e-14).all()


@pytest.mark.parametrize("name", SETS)
def test_projection_solves_its_quadratic_programme(name: str) -> None:
    convex, kind = SETS[name](), name.split(",")[0]
    conditions = [
        {"type": how, "fun": lambda v, f=f: f(convex, as_field(v)).flatten().numpy()}
        for how, f in CONDITIONS[kind]
    ]
    for x in fields(4):
        found = minimize(
            lambda v, x=x: float((as_field(v) - x).square().sum()),
            np.full(6, 0.1),
            method="SLSQP",
            constraints=conditions,
            options={"ftol": 1e-14, "maxiter": 300},
        )
        projected = convex.nearest(x[None]).flatten()
        # SLSQP differentiates numerically, to half the digits
        torch.testing.assert_close(torch.from_numpy(found.x), projected, rtol=0, atol=2e-6)


def as_field(v: np.ndarray) -> Tensor:
    return torch.from_numpy(v).reshape(1, 3, 2)


# for each set the functions that must vanish, or not be negative
CONDITIONS: dict[str, list[tuple[str, Callable[[Any, Tensor], Tensor]]]] = {
    # independent rows, as SLSQP wants them
    "linear": [("eq", lambda c, x: c.residual(x)[:, :2])],
    "box": [
        ("ineq", lambda c, x: x - c.low.reshape(-1, 1).clamp(min=-99)),
        ("ineq", lambda c, x: c.high.reshape(-1, 1).clamp(max=99) - x),
    ],
    "ball": [
        ("ineq", lambda c, x: c.radius**2 - (x - c.centre.reshape(-1, 1)).square().sum(c.dim))
    ],
    "simplex": [("ineq", lambda c, x: x), ("eq", lambda c, x: x.sum(c.dim) - c.total)],
}


# closed forms
def test_linear_on_one_equation_is_the_foot_of_the_perpendicular() -> None:
    plane, x = Linear([[2.0, -1.0, 2.0]], [6.0]), torch.tensor([[1.0, 1.0, 1.0]]).double()

    assert plane.residual(x).tolist() == [[-3]]
    torch.testing.assert_close(plane.nearest(x)[0], x[0] + 3 / 9 * torch.tensor([2, -1, 2]))


def test_linear_along_an_axis_is_the_flattened_one_at_each_position() -> None:
    x = noise([(0, i) for i in range(5)], (2, 3, 4)).double()
    row, flat = [[1.0, -2.0, 3.0]], Linear([[1.0, -2.0, 3.0]], [0.5])
    vectors = x.movedim(2, -1).reshape(-1, 3)
    wanted = flat.nearest(vectors).reshape(5, 2, 4, 3).movedim(-1, 2)

    for dim in (2, -2):
        along = Linear(row, [0.5], dim=dim)
        torch.testing.assert_close(along.nearest(x), wanted, rtol=0, atol=1e-15)
        assert along.residual(x).shape == (5, 2, 1, 4)
        assert along.unknowns((2, 3, 4)) == 2 * 4 * 2


def test_linear_knows_how_many_numbers_are_free() -> None:
    redundant = SETS["linear, redundant"]()
    x = fields(400)
    projected = redundant.nearest(x).flatten(1)

    assert redundant.unknowns((3, 2)) == 4
    assert int(torch.linalg.matrix_rank(projected - projected[0])) == 4


def test_linear_keeps_its_digits_where_rows_are_almost_dependent() -> None:
    close = Linear([[1.0, 1.0], [1.0, 1.0 + 1e-7]], [2.0, 2.0])

    # the only point is (2, 0): the pseudo-inverse itself has entries of 1e7
    nearest = close.nearest(torch.tensor([[3.0, 5.0]]))
    torch.testing.assert_close(nearest, torch.tensor([[2.0, 0.0]]), rtol=0, atol=1e-6)


def test_linear_refuses_equations_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match=r"0\.707"):
        Linear([[1.0, 1.0], [1.0, 1.0]], [1.0, 2.0])  # at best off by 1/2 in each
    with pytest.raises(ValueError, match=r"Linear"):
        Linear([[0.0, 0.0]], [1.0])


def test_linear_refuses_equations_that_ask_for_nothing() -> None:
    with pytest.raises(ValueError, match=r"\[\[0\.0, 0\.0\]\]"):
        Linear([[0.0, 0.0]], [0.0])
    assert Linear([[0.0, 0.0], [1.0, 2.0]], [0.0, 1.0]).unknowns((2,)) == 1


def test_ball_is_reached_along_the_radius() -> None:
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4]])[:, :, None, None]

    assert Ball().residual(x).flatten().tolist() == [4, 0]
    torch.testing.assert_close(Ball().nearest(x)[0].flatten(), torch.tensor([0.6, 0.8]))
    assert torch.equal(Ball().nearest(x)[1], x[1])


@pytest.mark.parametrize("dim", [None, 1])
def test_gradient_is_finite_at_the_centre_of_a_ball(dim: int | None) -> None:
    ball, x = Ball(1.0, 0.5, dim), torch.full((1, 2, 3), 0.5, requires_grad=True)
    for value in (ball(x), ball.nearest(x)):
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert torch.isfinite(gradient).all()
    assert torch.equal(gradient, torch.ones_like(x))  # that of the identity


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([1.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
        ([5.0, 0.0, -1.0], [1.0, 0.0, 0.0]),
        ([0.9, 0.5, -3.0], [0.7, 0.3, 0.0]),
        ([1e8, 1e8, 0.0], [0.5, 0.5, 0.0]),  # sums that would cancel
    ],
)
def test_simplex_in_known_cases(x: list[float], wanted: list[float]) -> None:
    found = Simplex().nearest(torch.tensor([x]))

    torch.testing.assert_close(found, torch.tensor([wanted]), rtol=0, atol=1e-7)


def test_residuals_say_how_far_and_on_which_side() -> None:
    x = torch.tensor([[-0.5, 2.0, 0.25]])

    assert Box(0.0, [1.0, 1.0, 0.5]).residual(x).tolist() == [[0.5, 1.0, 0.0]]
    assert Simplex().residual(x).tolist() == [[0.5, 0.0, 0.0, 0.75]]
    assert Simplex()(x).tolist() == [1.25 / 4]


# promises of every constraint
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["box", "ball", "simplex", "linear"]),
    batch=st.integers(1, 3),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 99),
)
def test_projection_holds_in_any_shape_and_precision(
    name: str, batch: int, shape: Sequence[int], dtype: torch.dtype, scale: float, seed: int
) -> None:
    n = math.prod(shape)
    convex: ConvexSet = {
        "box": lambda: Box(-scale / 2, scale),
        "ball": lambda: Ball(scale),
        "simplex": lambda: Simplex(scale),
        "linear": lambda: Linear([[1.0] * n, [2.0] * n], [scale, 2 * scale]),
    }[name]()
    x = (scale * noise([(seed, i) for i in range(batch)], shape)).to(dtype)
    convex.check_shape(x)
    projected = convex.nearest(x)

    assert projected.shape == x.shape and projected.dtype == dtype
    assert convex(x).shape == (batch,) and convex(x).dtype == dtype
    # a few roundings for each entry that a sum goes over
    tolerance = 8 * (n + 1) * torch.finfo(dtype).eps * scale
    assert convex(projected).max() <= tolerance
    assert torch.equal(convex.nearest(x), torch.cat([convex.nearest(field[None]) for field in x]))
    exact = convex.nearest(x.double())
    torch.testing.assert_close(projected.double(), exact, rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_field_is_treated_alone(convex: ConvexSet, n: int) -> None:
    for dtype in (torch.float32, torch.float64):
        x = fields(64).to(dtype)
        assert torch.equal(convex.nearest(x)[:n], convex.nearest(x[:n]))
        assert torch.equal(convex.residual(x)[:n], convex.residual(x[:n]))


def test_gradients(convex: ConvexSet) -> None:
    x = fields(3, "generic").requires_grad_()

    assert torch.autograd.gradcheck(convex.nearest, (x,))
    assert torch.autograd.gradcheck(convex.residual, (x,))
    satisfied = convex.nearest(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(convex(satisfied).sum(), satisfied)
    assert torch.isfinite(gradient).all()


def test_sets_are_constraints_like_others() -> None:
    both = Sum([Box(0.0, math.inf), Linear([[1.0, 1.0, 1.0]], [1.0], dim=1)])
    x = Simplex().nearest(fields(10))

    assert both(x).max() <= 1e-15 and (both(fields(10)) > 0.1).all()
    assert Box().attributes() == {} and Simplex().unknowns((3, 2)) is None
    assert not Linear(ROWS, [1.0, -2.0]).state_dict()  # nothing that a checkpoint should keep


# refusals
@pytest.mark.parametrize(
    ("convex", "shape", "message"),
    [
        (Linear(ROWS, [1, -2]), (2, 3, 3), r"\b6\b.*\(2, 3, 3\)"),
        (Linear([[1.0, 1.0]], [1.0], dim=1), (2, 3, 2), r"\b2\b.*axis 1\b"),
        (Box(0.0, [1.0, 2.0]), (2, 3, 4), r"Box.*2 channels"),
        (Ball(1.0, [0.0, 1.0]), (2, 3), r"Ball.*2 channels"),
        (Ball(1.0, dim=3), (2, 3, 4), "axis 3"),
        (Simplex(dim=-3), (2, 3, 4), "axis -3"),
        (Simplex(dim=0), (2, 3, 4), "axis 0"),
    ],
    ids=str,
)
def test_shape_that_does_not_fit_is_refused(
    convex: ConvexSet, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        convex.check_shape(torch.zeros(shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Linear([], []), r"Linear.*\[\]"),
        (lambda: Linear([[1.0, 2.0], [1.0]], [0.0, 0.0]), r"Linear.*\[1\.0\]"),
        (lambda: Linear([[1.0, 2.0]], [0.0, 0.0]), r"Linear.*\[0\.0, 0\.0\]"),
        (lambda: Box(1.0, 0.0), r"Box.*1\.0.*0\.0"),
        (lambda: Box([0.0, 0.0], [1.0, 1.0, 1.0]), r"Box.*\[1\.0, 1\.0, 1\.0\]"),
        (lambda: Box(math.nan, 1.0), "Box.*nan"),
        (lambda: Linear([[1.0, math.nan]], [0.0]), r"Linear.*nan"),
        (lambda: Linear([[1.0, math.inf]], [0.0]), "Linear.*inf"),
        (lambda: Linear([[1.0, 2.0]], [math.nan]), r"Linear.*\[nan\]"),
        (lambda: Ball(0.0), r"radius.*\b0\.0"),
        (lambda: Ball(math.inf), r"radius.*inf"),
        (lambda: Ball(1.0, math.nan), r"centre.*nan"),
        (lambda: Ball(1.0, [0.0, math.inf]), r"centre.*inf"),
        (lambda: Simplex(-1.0), r"total.*-1\.0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    build: Callable[[], ConvexSet], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build()
