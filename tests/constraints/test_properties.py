"""Promises of all constraints, on fields of any shape, scale and precision."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import constraints
from constraints import (
    Ball,
    Box,
    Burgers,
    Constraint,
    ConvexSet,
    Count,
    Counter,
    Divergence,
    Linear,
    MinimumHeight,
    NavierStokes,
    Obstacle,
    Periodic,
    PlanarArm,
    Polynomial,
    Reflection,
    Rotation,
    Simplex,
    Spiral,
    Sum,
    TotalBrightness,
    Waypoints,
    noise,
)

Shape = tuple[int, ...]


QUICK = settings(max_examples=25, derandomize=True, deadline=None, database=None)


@dataclass
class Case:
    """A constraint for fields of each shape, and up to which scale its physics goes."""

    make: Callable[[Shape], Constraint]
    shapes: st.SearchStrategy[Shape]
    # fields that satisfy it, of any ones, where they have a simple form
    satisfy: Callable[[Constraint, Tensor], Tensor] | None = None
    largest: float = 1e3
    # by how much a distance may differ alone and in a batch, in roundings of the largest one
    company: float = 0.0


def shapes(*axes: int | Sequence[int]) -> st.SearchStrategy[Shape]:
    """Shapes whose axes have a fixed length, or one of several."""

    choices = [st.sampled_from([axis] if isinstance(axis, int) else axis) for axis in axes]
    return st.tuples(*choices)


def project(constraint: Constraint, x: Tensor) -> Tensor:
    assert isinstance(constraint, ConvexSet)
    return constraint.project(x).x


def unfold(constraint: Constraint, x: Tensor) -> Tensor:
    return constraint.unfold(x)  # type: ignore[operator]


def roll(constraint: Constraint, x: Tensor) -> Tensor:
    """Rolls out the first frame of fields along their last axis."""

    assert isinstance(constraint, Burgers)
    frames = [x[..., :1]]
    while len(frames) < x.shape[-1]:
        frames.append(constraint.step(frames[-1]))
    return torch.cat(frames, dim=-1)


def flow(constraint: Constraint, x: Tensor) -> Tensor:
    """Rolls out the first state of fields packed as `(B, T * 2, X, Y)`."""

    assert isinstance(constraint, NavierStokes)
    states = [x[:, :2]]
    while 2 * len(states) < x.shape[1]:
        states.append(constraint.step(states[-1]))
    return torch.cat(states, dim=1)


def swirl(constraint: Constraint, x: Tensor) -> Tensor:
    """Velocities of a stream function, on a staggered grid."""

    psi = x[:, ::2]
    return torch.stack([psi - psi.roll(1, -1), psi.roll(1, -2) - psi], dim=2).flatten(1, 2)


def on_curve(constraint: Constraint, x: Tensor) -> Tensor:
    assert isinstance(constraint, Spiral)
    return constraint.curve(x[:, 0].sigmoid()).movedim(-1, 1)


def scaled(constraint: Constraint, x: Tensor) -> Tensor:
    assert isinstance(constraint, TotalBrightness)
    share = x.flatten(1).softmax(dim=1).reshape(x.shape)
    return constraint.total * share


def through(constraint: Constraint, x: Tensor) -> Tensor:
    assert isinstance(constraint, Waypoints)
    x = x.clone()
    x[:, :, constraint.index] = constraint.targets.to(x)
    return x


def outside(constraint: Constraint, x: Tensor) -> Tensor:
    assert isinstance(constraint, Obstacle)
    away = x - constraint.centre.to(x)
    near = torch.linalg.vector_norm(away, dim=1, keepdim=True)
    return constraint.centre.to(x) + away * (1 + constraint.radius / near)


def above(constraint: Constraint, x: Tensor) -> Tensor:
    assert isinstance(constraint, MinimumHeight)
    return x.abs() + constraint.height


def diagonal(constraint: Constraint, x: Tensor) -> Tensor:
    return x[:, :1].expand_as(x).clone()


def counter() -> Counter:
    """A counter of few weights, which depend on nothing."""

    torch.manual_seed(0)
    return Counter(width=4, blocks=1)


def navier_stokes(shape: Shape) -> NavierStokes:
    """One whose force fits on the grid, with steps shorter than a cell up to the largest scale."""

    _, x, y = shape
    return NavierStokes(wavenumber=x / y, dt=0.02, substeps=2)


def reflected_box(constraint: Constraint, x: Tensor) -> Tensor:
    first, second = constraint.terms  # type: ignore[misc]
    return unfold(first, project(second, x))


SIDES = (1, 2, 3, 5)


BANDS = ([0.0, -1.0], [1.0, 1.0])


ROW = [[1.0, 2.0, -1.0], [0.0, 1.0, 1.0]]


BURGERS = shapes(1, (3, 4, 8), (2, 5))


FLOW = shapes((4, 6), (4, 6), (4, 8))


IMAGE = shapes((1, 2), (2, 5), (3, 4))


PATH = shapes(2, (4, 9), (1, 2))


ARM = shapes(2, (4, 9), 1)


# explicit schemes blow up where a step is longer than a cell
COURANT = 10.0


CASES: dict[str, list[Case]] = {
    "Ball": [
        Case(lambda s: Ball(2.0, 0.5), shapes(SIDES, SIDES, SIDES), project),
        Case(lambda s: Ball(0.5, [1.0, -1.0], dim=1), shapes(2, SIDES), project),
    ],
    "Box": [
        Case(lambda s: Box(-0.5, 1.0), shapes(SIDES, SIDES), project),
        Case(lambda s: Box(*BANDS), shapes(2, SIDES, SIDES), project),
    ],
    "Burgers": [
        Case(lambda s: Burgers(substeps=2), BURGERS, roll, COURANT),
        Case(lambda s: Burgers("crank_nicolson", substeps=1), BURGERS, roll, COURANT),
    ],
    # convolutions sum in an order that depends on the batch
    "Count": [Case(lambda s: Count(3, counter()), shapes(1, (5, 8), (4, 9)), company=1e3)],
    "Divergence": [Case(lambda s: Divergence(0.1), FLOW, swirl)],
    "Linear": [
        Case(lambda s: Linear(ROW, [0.5, 1.0], dim=1), shapes(3, SIDES, SIDES), project),
        Case(lambda s: Linear([[1.0] * math.prod(s)], [2.0]), IMAGE, project),
    ],
    "MinimumHeight": [
        Case(lambda s: MinimumHeight(0.3), PATH, above),
        Case(lambda s: MinimumHeight(0.3, 1, [0, 2], PlanarArm((1.0, 0.5), True)), ARM),
    ],
    "NavierStokes": [Case(navier_stokes, FLOW, flow, COURANT)],
    "Obstacle": [
        Case(lambda s: Obstacle([0.5, 0.0], 1.5), PATH, outside),
        Case(lambda s: Obstacle([0.5, 0.0], 1.5, PlanarArm()), ARM),
    ],
    "Periodic": [
        Case(lambda s: Periodic([2, 3]), shapes((1, 2), (2, 4), (3, 6)), unfold),
        Case(lambda s: Periodic([1, 2]), shapes(1, SIDES, (2, 4)), unfold),
    ],
    "Polynomial": [
        Case(lambda s: Polynomial([[1, 1, 0], [-1, 0, 1]]), shapes(2, SIDES), diagonal),
        Case(lambda s: Polynomial([[1, 2, 0], [1, 0, 3], [-3, 0, 0]], True), shapes(2, SIDES, 1)),
    ],
    "Reflection": [
        Case(lambda s: Reflection([-1]), IMAGE, unfold),
        Case(lambda s: Reflection([-2, -1]), IMAGE, unfold),
    ],
    "Rotation": [
        Case(lambda s: Rotation(2), IMAGE, unfold),
        Case(lambda s: Rotation(4), st.sampled_from([(1, 2, 2), (2, 3, 3), (1, 6, 6)]), unfold),
    ],
    "Simplex": [
        Case(lambda s: Simplex(), IMAGE, project),
        Case(lambda s: Simplex(3.0, dim=-1), shapes(SIDES, SIDES), project),
    ],
    "Spiral": [Case(lambda s: Spiral(), shapes(2, SIDES, (1, 2)), on_curve)],
    "Sum": [
        Case(lambda s: Sum([Reflection([-1]), Box(-1, 1)], [2.0, 1.0]), IMAGE, reflected_box),
    ],
    "TotalBrightness": [Case(lambda s: TotalBrightness(5.0), IMAGE, scaled)],
    "Waypoints": [
        Case(lambda s: Waypoints([0, 3], [[0.0, 1.0], [1.0, 0.0]]), PATH, through),
        Case(lambda s: Waypoints([2], [[0.5, 0.5]], PlanarArm()), ARM),
    ],
}  # fmt: skip


EACH = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]


each = pytest.mark.parametrize(("name", "i"), EACH, ids=str)


def draw_fields(data: st.DataObject, case: Case, dtype: torch.dtype) -> tuple[Constraint, Tensor]:
    """A constraint and a few normal fields of some shape and scale, which it can judge."""

    shape = data.draw(case.shapes, "shape")
    power = data.draw(st.integers(-3, round(math.log10(case.largest))), "power")
    seed, n = data.draw(st.integers(0, 99), "seed"), data.draw(st.integers(2, 4), "n")
    constraint = case.make(shape).to(dtype)
    x = 10.0**power * noise([(seed, k) for k in range(n)], shape).to(dtype)
    constraint.check_shape(x)
    return constraint, x


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_constraint_keeps_its_promises(name: str, i: int, dtype: torch.dtype) -> None:
    case = CASES[name][i]

    @QUICK
    @given(st.data())
    def keeps(data: st.DataObject) -> None:
        constraint, x = draw_fields(data, case, dtype)
        x.requires_grad_()
        distance = constraint(x)
        (gradient,) = torch.autograd.grad(distance.sum(), x, retain_graph=True)
        (first,) = torch.autograd.grad(distance[0], x)

        assert distance.shape == (len(x),) and distance.dtype == dtype
        assert torch.isfinite(distance).all() and (distance >= 0).all()
        assert torch.isfinite(gradient).all()
        assert not first[1:].any()
        residual = constraint.residual(x)
        assert len(residual) == len(x) and residual.dtype == dtype

        with torch.no_grad():
            order = data.draw(st.permutations(range(len(x))), "order")
            others = [constraint(x[order]), torch.cat([constraint(field[None]) for field in x])]
        roundings = case.company * torch.finfo(dtype).eps * float(distance.detach().max())
        for other, same in zip(others, (distance[order], distance), strict=True):
            assert (other - same).abs().max() <= roundings

    keeps()


@pytest.mark.parametrize(
    ("name", "i"), [(name, i) for name, i in EACH if CASES[name][i].satisfy], ids=str
)
def test_distance_is_zero_where_it_is_satisfied(name: str, i: int) -> None:
    case = CASES[name][i]

    @QUICK
    @given(st.data())
    def vanishes(data: st.DataObject) -> None:
        constraint, x = draw_fields(data, case, torch.float64)
        x = case.satisfy(constraint, x).requires_grad_()  # type: ignore[misc]
        distance = constraint(x)
        (gradient,) = torch.autograd.grad(distance.sum(), x)

        # a few roundings of the numbers from which a residual is made
        assert distance.max() <= 1e-13 * max(100.0, float(x.detach().abs().max()) ** 2)
        assert torch.isfinite(gradient).all()

    vanishes()


def test_all_exported_constraints_are_in_the_table() -> None:
    exported = {
        name
        for name in constraints.__all__
        if inspect.isclass(cls := getattr(constraints, name))
        and issubclass(cls, Constraint)
        and cls is not Constraint
        and not inspect.isabstract(cls)
    }

    assert exported == CASES.keys()
    for name, cases in CASES.items():
        assert all(type(case.make((1, 4, 4))).__name__ == name for case in cases)
