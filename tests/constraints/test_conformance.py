"""The conformance kit: sound constraints pass, and of broken ones it names what is broken."""

import math

import pytest
import torch
from torch import Tensor

from constraints import (
    Ball,
    Box,
    Burgers,
    Constraint,
    Count,
    Counter,
    Divergence,
    InputError,
    Linear,
    MinimumHeight,
    NavierStokes,
    Obstacle,
    Periodic,
    Polynomial,
    Reflection,
    Rotation,
    Simplex,
    Spiral,
    Sum,
    TotalBrightness,
    Waypoints,
    check,
)
from constraints.kolmogorov.spectral import project
from datamodules import BurgersData, SpiralData
from tests.constraints.unsound import (
    SHAPE,
    BatchMean,
    BatchNorm,
    BatchScale,
    Blind,
    Column,
    Counting,
    Detached,
    Dropout,
    Float32,
    HalfDetached,
    Leaking,
    Logarithm,
    Mean,
    Modes,
    Number,
    Numpy,
    Offset,
    OneDtype,
    OtherResidual,
    Random,
    Root,
    Scalar,
    Signed,
    Steps,
    Trainable,
    Weights32,
    WrongResidual,
    centred,
    gaussian,
)

FIRST = [
    "shape", "precision", "differentiable", "finite", "deterministic", "alone and in a batch",
]  # fmt: skip


def failures(constraint: Constraint, x: Tensor, floor: float = 0.0) -> set[str]:
    return {f.name for f in check(constraint, x, floor) if f.verdict == "fail"}


def test_check_of_shapes_that_breaks_is_named() -> None:
    class Breaks(Box):
        def check_shape(self, x: Tensor) -> None:
            raise IndexError("tuple index out of range")

    (finding,) = check(Breaks(), gaussian(*SHAPE))
    assert (finding.name, finding.verdict) == ("check_shape", "fail")
    assert "tuple index out of range" in finding.advice


# sound constraints
def burgers(constraint: Burgers) -> Tensor:
    data = BurgersData(constraint, points=12, frames=6, file="none.h5", sizes={})
    return data.simulate(4, seed=0)


def spiral(std: float) -> Tensor:
    data = SpiralData(constraint=Spiral(), std=std, file="none.h5", sizes={})
    return data.simulate(4, seed=0)


def flow() -> Tensor:
    """Two states of a flow, the second a step from the first."""

    start = project(gaussian(2, 8, 8).double())
    return torch.cat([start, NAVIER_STOKES.step(start)], dim=1).float()


def bright(total: float) -> Tensor:
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    return (total * x / x.sum(dim=(2, 3), keepdim=True)).float()


def avoiding() -> Tensor:
    """Paths of 8 positions that stay out of the unit disc."""

    x = gaussian(2, 8, 1)
    return 2 * x / torch.linalg.vector_norm(x, dim=1, keepdim=True)


NAVIER_STOKES = NavierStokes(length=1.0, wavenumber=2 * math.pi, dt=0.02, substeps=2)


IMPLICIT = Burgers("crank_nicolson", dt=0.5, substeps=1)


SOUND: dict[str, tuple[Constraint, Tensor, float]] = {
    # name: (the constraint, fields that satisfy it, up to which distance)
    "burgers": (Burgers(), burgers(Burgers()), 0),
    "burgers, implicit": (IMPLICIT, burgers(IMPLICIT), 0),
    "navier-stokes": (NAVIER_STOKES, flow(), 0),
    "divergence": (Divergence(1 / 8), flow(), 0),
    "spiral": (Spiral(), spiral(0.0), 0),
    "spiral with noise": (Spiral(), spiral(0.01), 0.04),
    "line": (Polynomial([[1, 1, 0], [-1, 0, 1]]), gaussian(1, 3, 1).expand(-1, 2, -1, -1), 0),
    "disc": (Polynomial([[1, 2, 0], [1, 0, 2], [-9, 0, 0]], True), gaussian(2, 1, 1).tanh(), 0),
    "linear": (Linear([[1, -1]], [0], dim=1), gaussian(1, 3, 1).expand(-1, 2, -1, -1), 0),
    "box": (Box(-1, 1), gaussian(*SHAPE).tanh(), 0),
    "wide box": (Box(-5, 5), gaussian(*SHAPE).tanh(), 0),
    "ball": (Ball(20), gaussian(*SHAPE), 0),
    "simplex": (Simplex(), gaussian(3, 4, 4).double().softmax(dim=1).float(), 0),
    "periodic": (Periodic([2, 2]), gaussian(1, 3, 4).repeat(1, 1, 2, 2), 0),
    "reflection": (Reflection([-1]), torch.cat([y := gaussian(1, 4, 4), y.flip(-1)], -1), 0),
    "rotation": (Rotation(2), (y := gaussian(1, 8, 8)) + y.rot90(2, (-2, -1)), 0),
    "brightness": (TotalBrightness(5.0), bright(5.0), 0),
    "waypoints": (Waypoints([0, 7], [[0, 0], [0, 0]]), gaussian(2, 8, 1).mul(
        torch.tensor([0, *[1] * 6, 0])[:, None]), 0),
    "obstacle": (Obstacle([0, 0], 1.0), avoiding(), 0),
    "height": (MinimumHeight(0.0), gaussian(2, 8, 1).abs(), 0),
    "sum": (Sum([Periodic([1, 2]), Box(-1, 1)]), gaussian(1, 4, 4).tanh().repeat(1, 1, 1, 2), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_sound_constraint_passes(name: str) -> None:
    constraint, x, floor = SOUND[name]
    findings = check(constraint, x, floor)

    assert [f for f in findings if f.verdict == "fail"] == []
    assert [f.name for f in findings][:6] == FIRST and len(findings) == 16


def test_growth_is_that_of_the_distance() -> None:
    for power, rises in ((1, "noise^1.00"), (2, "noise^2.00")):
        findings = check(Polynomial([[1, power]]), torch.zeros(64, 1, 1, 1))
        (growth,) = (f for f in findings if f.name == "growth with noise")
        assert growth.verdict == "pass" and rises in growth.figure


def test_obstacle_is_noted_to_be_missed_by_large_noise() -> None:
    (growth,) = (f for f in check(*SOUND["obstacle"]) if f.name == "growth with noise")

    assert growth.verdict == "note" and "no more from" in growth.figure


def test_findings_depend_on_nothing_but_their_arguments() -> None:
    def measured(seed: int) -> list[tuple[str, str]]:
        findings = check(*SOUND["burgers"], seed=seed)
        return [(f.name, f.figure) for f in findings if f.name != "cost of a field"]

    state = torch.get_rng_state()
    assert measured(0) == measured(0) != measured(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "constraint",
    [TotalBrightness(5.0), Count(3, Counter(width=4, blocks=1))],
    ids=["total", "count"],
)
def test_without_data_zero_is_not_checked(constraint: Constraint) -> None:
    findings = check(constraint, gaussian(*SHAPE), satisfied=False)

    assert {f.name: f.verdict for f in findings}["zero on data"] == "note"
    assert not any(f.verdict == "fail" for f in findings)


def test_zero_is_measured_against_noise_or_the_floor() -> None:
    # the mean of 48 numbers is 0; noise of their std moves it by some 0.1
    x = gaussian(*SHAPE)
    x = x - x.mean(dim=(2, 3), keepdim=True)

    assert failures(Mean(), x + 1e-7) == set()
    assert failures(Mean(), x + 1e-5) == {"zero on data"}
    assert failures(Mean(), x + 1e-5, floor=1e-5) == set()


def test_fields_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(InputError, match="Burgers"):
        check(Burgers(), gaussian(2, 8, 8))
    with pytest.raises(ValueError, match=r"\b2\b"):
        check(Burgers(), gaussian(1, 8, 8)[:1])


BROKEN: dict[type[Constraint], set[str]] = {
    Scalar: {"shape"},
    Column: {"shape"},
    Number: {"shape"},
    Float32: {"precision"},
    Weights32: {"precision"},
    Numpy: {"differentiable"},
    Detached: {"differentiable"},
    HalfDetached: {"gradient"},
    Steps: {"zero on data", "gradient"},
    Root: {"finite gradient"},
    Logarithm: {"finite"},
    Signed: {"not negative"},
    Offset: {"zero on data", "growth with noise"},
    BatchMean: {"alone and in a batch"},
    BatchScale: {"alone and in a batch"},
    Leaking: {"separate gradients"},
    BatchNorm: {"alone and in a batch"},
    Random: {"deterministic"},
    Dropout: {"deterministic"},
    Modes: {"unchanged"},
    Counting: {"unchanged"},
    Trainable: {"unchanged"},
    Blind: {"growth with noise"},
    OtherResidual: {"residual"},
    WrongResidual: {"residual"},
    OneDtype: {"bfloat16"},
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_what_is_broken_is_named(cls: type[Constraint]) -> None:
    findings = check(cls(), centred())
    failed = {f.name: f for f in findings if f.verdict == "fail"}

    assert failed.keys() == BROKEN[cls]
    assert all(f.advice.endswith(".") for f in failed.values())
    if failed.keys() & set(FIRST):  # the others would only repeat it
        assert findings[-1].name in failed and len(findings) <= 6


def test_constraint_comes_out_as_it_went_in() -> None:
    constraint = Counting()
    check(constraint, centred())

    assert constraint.calls == 0 and constraint.training
