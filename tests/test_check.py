"""The conformance kit: sound constraints pass, and of broken ones it names what is broken."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from constraints import (
    Ball,
    Box,
    Burgers,
    Constraint,
    Count,
    Counter,
    Divergence,
    Finding,
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
    noise,
)
from constraints.kolmogorov.spectral import project
from datamodules import BurgersData, SpiralData, write_fields
from namm.cli.main import main
from test_cli_tools import PROBLEM, write
from test_cli_tools import problem as problem  # a fixture

FIRST = [
    "shape", "precision", "differentiable", "finite", "deterministic", "alone and in a batch",
]  # fmt: skip
SHAPE = (1, 6, 8)


def gaussian(*shape: int) -> Tensor:
    return noise([(0, i) for i in range(4)], shape)


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
    with pytest.raises(InputError, match="Burgers expects"):
        check(Burgers(), gaussian(2, 8, 8))
    with pytest.raises(ValueError, match="at least 2 fields"):
        check(Burgers(), gaussian(1, 8, 8)[:1])


# broken constraints


class Mean(Constraint):
    """Fields whose numbers have the mean 0: the sound one that the others spoil."""

    def residual(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(dim=1, keepdim=True)


class Scalar(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean().abs()


class Column(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x).abs()


class Number(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return float(x.mean())  # type: ignore[return-value]


class Float32(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class Weights32(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.ones(x[0].numel(), 1)


class Numpy(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().reshape(len(x), -1).mean(axis=1, keepdims=True))


class Detached(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class HalfDetached(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) * (1 + super().residual(x).detach())


class Steps(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual((8 * x).round() / 8 + 0 * x)


class Root(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().residual(x).square().sum(dim=1).sqrt()


class Logarithm(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x).log1p() + super().residual(x - 2).log()


class Signed(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x)[:, 0]


class Offset(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) - 3


class BatchMean(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) - super().residual(x).mean()


class BatchScale(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) / x.detach().std()


class Leaking(Mean):
    def residual(self, x: Tensor) -> Tensor:
        other = super().residual(x).mean()
        return super().residual(x) + other - other.detach()


class BatchNorm(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(self.norm(x) ** 3)


class Random(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) * torch.rand(())


class Dropout(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(nn.functional.dropout(x, 0.2, self.training))


class Modes(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return (1 + self.training) * super().residual(x)


class Counting(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def residual(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().residual(x)


class Trainable(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def residual(self, x: Tensor) -> Tensor:
        return self.weight * super().residual(x)


class Blind(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x - x)


class OtherResidual(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().residual(x)[:, 0].abs()

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) + 1


class WrongResidual(OtherResidual):
    def residual(self, x: Tensor) -> Tensor:
        return x.mean()


class OneDtype(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("target", torch.zeros(()))

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x.lerp(self.target.expand_as(x), 0.5))


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


def centred() -> Tensor:
    x = gaussian(*SHAPE)
    return x - x.mean(dim=(2, 3), keepdim=True)


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


# the command


MEAN = """
from test_check import Mean

class Mine(Mean):
    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset

    def residual(self, x):
        return super().residual(x) - self.offset
"""


@pytest.fixture
def mine(problem: Path) -> None:
    """A constraint in the working directory, and a file of fields that satisfy it."""

    write("mine.py", MEAN)
    write("endless.yaml", {"data": {"class_path": "datamodules.CountingData"}})
    write_fields("data.h5", {"train": centred(), "val": centred() + 1}, {"data_floor": 0.0}, {})


def test_command_says_that_a_constraint_passes(
    mine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "mine.Mine", "--data", "data.h5"]) is None

    head, _, *rows, _, last = capsys.readouterr().out.splitlines()
    assert head == "mine.Mine on 4 fields of data.h5, /train, of shape (1, 6, 8)"
    assert last == "mine.Mine passes."
    assert len(rows) == 17
    column = rows[0].index("wanted")
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)


def test_command_says_what_fails_and_what_to_do(
    mine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "check",
        "mine.Mine",
        "--constraint.offset",
        "1",
        "--data=data.h5",
        "--json=out/c.json",
    ]
    assert main(argv) == 1
    assert main([*argv, "--split=val"]) is None

    out = capsys.readouterr().out
    assert "mine.Mine fails: zero on data" in out
    assert "\n      -> This field " in out
    result = json.loads(Path("out/c.json").read_text())
    assert result["constraint"] == {"class_path": "mine.Mine", "init_args": {"offset": 1.0}}
    assert result["passes"] and result["split"] == "val" and len(result["findings"]) == 16
    assert result["findings"][0].keys() == set(Finding._fields)


def test_command_takes_configurations(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("constraint.yaml", PROBLEM["model"]["init_args"]["constraint"])
    write("data.yaml", {"data": PROBLEM["data"]})

    for _ in range(2):  # the file is simulated once
        assert main(["check", "constraint.yaml", "--data=data.yaml", "--fields=3"]) is None
    streams = capsys.readouterr()
    assert streams.out.count("Burgers on 3 fields of data.h5, /train, of shape (1, 16, 8)") == 2
    assert streams.err.count("Simulating data.h5:   0%") == 1
    options = ["--constraint.substeps=3", "--data=data.h5"]
    assert main(["check", "constraint.yaml", *options]) == 1  # the file says 2
    assert "parameters.substeps" in capsys.readouterr().err


def test_command_makes_do_with_noise(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "Burgers", "--shape", "[1,8,8]"]) is None
    assert "not checked without data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        ([], 2, ["needs constraint", "usage: namm check CONSTRAINT"]),
        (["--data=data.h5"], 2, ["needs constraint"]),
        (["Burger", "--data=data.h5"], 2, ["'Burger'", "did you mean: constraints.Burgers?"]),
        (["mine.Mean", "--offset=1"], 2, ["no option 'offset'", "--constraint.OPTION"]),
        (["mine.Mine", "--constraint.ofset=1"], 2, ["no option 'ofset'", "did you mean: offset?"]),
        (["namm.ICNN", "--data=data.h5"], 2, ["namm.ICNN is not a Constraint", "Burgers"]),
        (["none.yaml", "--data=data.h5"], 2, ["there is no file 'none.yaml'"]),
        (["mine.Mine"], 2, ["either --data", "--shape [1,64,64]"]),
        (["mine.Mine", "--data=data.h5", "--shape=[1,8,8]"], 2, ["either --data"]),
        (["mine.Mine", "--shape=[1,0]"], 2, ["shape", "PositiveInt"]),
        (["mine.Mine", "--data=data.h5", "--fields=1"], 2, ["at least 2 fields"]),
        (["mine.Mine", "--data=none.yaml"], 2, ["none.yaml"]),
        (["mine.Mine", "--data=problem.yaml"], 2, ["problem.yaml", "model"]),
        (["mine.Mine", "--data=endless.yaml"], 1, ["CountingData of endless.yaml keeps no file"]),
        (["mine.Mine", "--data=none.h5"], 1, ["There is no file 'none.h5'"]),
        (["mine.Mine", "--data=data.h5", "--split=test"], 1, ["no /test/x", "train, val"]),
        (["Burgers", "--data=data.h5"], 1, ["does not say its problem", "'burgers' is wanted"]),
        (["Burgers", "--constraint.dt=-1", "--shape=[1,8,8]"], 1, ["positive viscosity", "-1.0"]),
        (["Burgers", "--shape=[2,8,8]"], 1, ["Burgers expects fields of shape (B, 1, X, T)"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_mistake_is_answered_in_a_sentence(
    argv: list[str], code: int, parts: list[str], mine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *argv]) == code

    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and "Traceback" not in error
    assert error.count("\n") <= 2, "more than a sentence and a suggestion"
    assert all(part in error for part in parts), error
