"""Tasks of trajectories, simulated motion, and the chain of both through the command line."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from constraints import (
    Box,
    Constraint,
    InputError,
    MinimumHeight,
    Obstacle,
    PlanarArm,
    Sum,
    Waypoints,
    noise,
)
from datamodules import ArmData, FieldData, PointMassData, check_fits, read_attributes
from mdm import MLP
from namm.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Box(-3.0, 3.0)
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


def point_mass(file: str = "", **options: Any) -> PointMassData:
    return PointMassData(options.pop("constraint", LIMITS), file=file, sizes={}, **options)


def arm(file: str = "", **options: Any) -> ArmData:
    return ArmData(options.pop("constraint", LIMITS), file=file, sizes={}, **options)


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
        (Waypoints([0, 6], [[0.0, 0.0]] * 2), (2, 6, 1), "frame 6.*of 6 frames"),
        (Waypoints([0], [[0.0, 0.0, 0.0]]), (2, 6, 1), "of 3 coordinates, got 2"),
        (Waypoints([0], [[0.0, 0.0]]), (3, 6, 1), "of 2 coordinates, got 3.*give kinematics"),
        (Obstacle([0.0, 0.0], 1.0), (2, 6), r"\(B, C, T, P\), got \(1, 2, 6\)"),
        (MinimumHeight(0.0, channel=2), (2, 6, 1), "at least 3 coordinates, got 2"),
        (MinimumHeight(0.0, index=[9]), (2, 6, 1), "frame 9"),
        (MinimumHeight(0.0, kinematics=PlanarArm()), (3, 6, 1), "has 2 joints"),
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
        (lambda: Waypoints([], []), "distinct frames"),
        (lambda: Waypoints([1, 1], [[0.0], [0.0]]), "distinct frames"),
        (lambda: Waypoints([-1], [[0.0, 0.0]]), "distinct frames"),
        (lambda: Waypoints([0, 1], [[0.0, 0.0]]), "got 1 for 2 frames"),
        (lambda: Waypoints([0, 1], [[0.0], [0.0, 1.0]]), "all of one length"),
        (lambda: Waypoints([0], [[0.0, math.nan]]), r"finite targets, got \[\[0.0, nan"),
        (lambda: Obstacle([0.0, 0.0], -1.0), "positive radius"),
        (lambda: Obstacle([0.0, math.inf], 1.0), r"finite centre.*got \[0.0, inf\]"),
        (lambda: MinimumHeight(math.nan), "finite height"),
        (lambda: MinimumHeight(0.0, index=[]), "distinct frames"),
        (lambda: PlanarArm([1.0, 0.0]), "positive lengths"),
        (lambda: PlanarArm([1.0, math.nan]), "positive lengths"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# the data


@pytest.mark.parametrize("build", [point_mass, arm])
def test_motion_stays_within_its_limits(build: Callable[..., FieldData]) -> None:
    data = build(constraint=Box([-3.0, -2.0], [2.0, 2.5]))
    x = data.simulate(1000, seed=0)

    assert x.shape == (1000, 2, 64, 1) and data.constraint(x).max() <= 1e-7
    # varied starts and directions, over most of the range
    for values in (x[:, :, 0, 0], x[:, :, -1, 0], x[:, :, -1, 0] - x[:, :, 0, 0]):
        assert (values.std(dim=0) > 0.3).all()
    assert (x.amax(dim=(0, 2, 3)) > torch.tensor([1.5, 2.0])).all()
    # of a smooth curve at such steps, each difference is smaller than the one before
    orders = [x.diff(n, dim=2).abs().mean() for n in (1, 2, 3)]
    assert orders[1] < 0.2 * orders[0] and orders[2] < 0.3 * orders[1]


@pytest.mark.parametrize("build", [point_mass, arm])
@pytest.mark.parametrize("cut", [1, 3, 7])
def test_motion_depends_on_seed_and_position_alone(
    build: Callable[..., FieldData], cut: int
) -> None:
    # narrow enough that some motions of the arm are drawn again
    data = build(constraint=Box(-1.5, 1.5), frames=24)
    x = data.simulate(8, 1, dtype=torch.float64)
    parts = [data.simulate(n, 1, k, torch.float64) for n, k in ((cut, 0), (8 - cut, cut))]

    assert torch.equal(x, torch.cat(parts))
    assert not torch.isclose(x, data.simulate(8, 2, dtype=torch.float64)).all(dim=2).any()


def test_path_of_a_point_is_the_spline_of_its_knots() -> None:
    data = point_mass(frames=31, knots=9)
    weights = data.weights

    # a cubic spline returns constants and lines, on knots at -1/6, 0, 1/6, ..., 7/6
    times = torch.linspace(0, 1, 31, dtype=torch.float64)
    knots = (torch.arange(9).double() - 1) / 6
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(31).double())
    torch.testing.assert_close(weights @ knots, times, rtol=0, atol=1e-11)  # the end is clipped
    # and its first piece is that of the textbook
    t = times[:6] * 6
    pieces = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    textbook = torch.stack(pieces, dim=1) / 6
    torch.testing.assert_close(weights[:5, :4], textbook[:5], rtol=0, atol=1e-14)


def kinetic(lengths: list[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """The kinetic energy of two unit masses, from where the links end and how fast."""

    positions = PlanarArm(lengths, joints=True)

    def energy(q: Tensor, rate: Tensor) -> Tensor:
        def ends(q: Tensor) -> Tensor:
            return positions(q.reshape(1, 2, 1, 1))

        _, velocity = torch.func.jvp(ends, (q.flatten(),), (rate.flatten(),))
        return velocity.square().sum() / 2

    return energy


def test_arm_obeys_the_equations_of_lagrange() -> None:
    data = arm(lengths=[0.8, 1.3], damping=0.3, stiffness=0.7, constraint=Box([0, -2], [1, 3]))
    rest = torch.tensor([0.5, 0.5]).double()
    energy = kinetic(data.lengths)
    for q, rate, torque in zip(*(2 * paths(5 * 3, 2)).reshape(3, 5, 2), strict=True):
        columns = (v.reshape(1, 2, 1) for v in (q, rate, torque))
        a = data.accelerate(*columns).flatten()
        (_, dq), hessian = (
            torch.autograd.functional.jacobian(energy, (q, rate))[::-1],
            torch.autograd.functional.hessian(energy, (q, rate)),
        )
        # d/dt of dT/d(rate), less dT/dq
        left = hessian[1][1] @ a + hessian[1][0] @ rate - dq
        right = torque - 0.3 * rate - 0.7 * (q - rest)
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


FREE: dict[str, Any] = {"torque": 0.0, "damping": 0.0, "stiffness": 0.0}


def swing(data: ArmData, frames: int = 41, substeps: int = 2) -> tuple[Tensor, Tensor]:
    """Angles and rates of three arms that are let go with some speed."""

    start, rate = paths(6, 2, 1).reshape(2, 3, 2, 1)
    still = torch.zeros(3, 2 * substeps * (frames - 1) + 1, 2, 1).double()
    return data.roll(start, 2 * rate, still)


def test_free_arm_keeps_its_energy_and_its_spin() -> None:
    data = arm(lengths=[1.0, 0.7], **FREE)
    angles, rates = swing(data)
    energy, lengths = kinetic(data.lengths), [1.0, 0.7]

    def spin(q: Tensor, rate: Tensor) -> Tensor:
        def ends(q: Tensor) -> Tensor:
            return PlanarArm(lengths, joints=True)(q.reshape(1, 2, 1, 1))[0, :, 0]

        place, velocity = torch.func.jvp(ends, (q,), (rate,))
        return (place[0] * velocity[1] - place[1] * velocity[0]).sum()

    for q, rate in zip(angles.squeeze(-1), rates.squeeze(-1), strict=True):
        for quantity in (energy, spin):
            values = torch.stack([quantity(q[:, k], rate[:, k]) for k in range(0, 41, 5)])
            # steps of 0.025 s at speeds of about 3 rad / s, to the fourth power
            assert (values - values[0]).abs().max() <= 1e-4 * values[0].abs().clamp(min=1)
        assert (q - q[:, :1]).abs().max() > 1  # it does move


def test_order_of_convergence_of_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    data = arm(**FREE)

    def solve(substeps: int) -> Tensor:
        monkeypatch.setattr("datamodules.paths.SUBSTEPS", substeps)
        return swing(data, 13, substeps)[0][:, :, -1]

    limit, steps = solve(32), (2, 4, 8)
    errors = [float((solve(n) - limit).abs().max()) for n in steps]

    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(4, abs=0.3)


def test_damping_takes_the_energy_that_it_should() -> None:
    data = arm(**{**FREE, "damping": 0.5})
    angles, rates = (v.squeeze(-1) for v in swing(data))
    energy = kinetic(data.lengths)
    for q, rate in zip(angles, rates, strict=True):
        lost = energy(q[:, 0], rate[:, 0]) - energy(q[:, -1], rate[:, -1])
        power = 0.5 * rate.square().sum(dim=0)
        # the trapezoidal rule on frames
        torch.testing.assert_close(lost, 0.05 * torch.trapezoid(power), rtol=5e-3, atol=0)


def test_file_says_what_it_holds_and_whom_it_fits(tmp_path: Path) -> None:
    options = {"sizes": {"train": 40, "val": 4, "test": 4}, "constraint": Box(-1.5, 1.5)}
    files = {}
    for build in (PointMassData, ArmData):
        data = build(file=str(tmp_path / f"{build.__name__}.h5"), **options)
        data.prepare_data()
        data.setup("fit")
        files[build], found = data.file, read_attributes(data.file)
        assert data.shape == (2, 64, 1) and found["limits"] == [[-1.5] * 2, [1.5] * 2]
        assert found["data_floor"] <= 1e-6
    assert found["redrawn"] > 0 and found["parameters"]["lengths"] == [1.0, 1.0]

    reach = Waypoints([0], [[0.5, 1.0]], PlanarArm())
    check_fits(files[ArmData], reach)
    check_fits(files[ArmData], Waypoints([0], [[0.5, 1.0]]))  # of the angles
    with pytest.raises(InputError, match="problem"):
        check_fits(files[PointMassData], reach)
    with pytest.raises(InputError, match="lengths"):
        check_fits(files[ArmData], Waypoints([0], [[0.5, 1.0]], PlanarArm([1.0, 0.5])))
    with pytest.raises(InputError, match="torque"):
        ArmData(file=files[ArmData], torque=3.0, **options).prepare_data()
    with pytest.raises(InputError, match="away from the constraint"):
        # a task is asked of samples: data do not fulfil it
        wrong = PointMassData(file=str(tmp_path / "new.h5"), **options)
        wrong.constraint = reach.requires_grad_(False)  # type: ignore[assignment]
        wrong.prepare_data()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: point_mass(constraint=Box(0.0, math.inf)), "finite limits"),
        (lambda: arm(constraint=Box([0.0] * 3, 1.0)), "3 channels"),
        (lambda: point_mass(knots=3), "4 knots"),
        (lambda: arm(frames=1), "2 frames"),
        (lambda: arm(lengths=[1.0, 1.0, 1.0]), "two positive lengths"),
        (lambda: arm(damping=-1.0), "not negative"),
    ],
)
def test_motion_that_makes_no_sense_is_refused(
    build: Callable[[], FieldData], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_limits_that_no_motion_keeps_are_named() -> None:
    with pytest.raises(InputError, match=r"in 10 draws: .*too narrow for this torque, give wider"):
        arm(constraint=Box(-0.2, 0.2)).simulate(2, seed=0)


def test_network_takes_a_trajectory_for_a_point() -> None:
    net, x, t = MLP(12, width=8, layers=1), paths(3).float(), torch.full((3,), 500.0)

    assert torch.equal(net(x, t), net(x.reshape(3, 12, 1, 1), t).reshape(3, 2, 6, 1))
    with pytest.raises(ValueError, match=r"12 numbers.*got \(3, 2, 5, 1\)"):
        net(x[:, :, 1:], t)


# the command line

FIT = {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1}
SMALL = {"sizes": {"train": 32, "val": 4, "test": 8}, "batch_size": 16}
NET = {"class_path": "mdm.MLP", "init_args": {"channels": 128, "width": 8, "layers": 1}}
DENOISER = {"class_path": "mdm.DiffusersDenoiser", "init_args": {"net": NET}}
SHORT = {"class_path": "mdm.DDIM", "init_args": {"steps": 3}}
# a scale of a second or so
TINY: dict[str, dict[str, Any]] = {
    "trainer": {
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    },
    "data": {"data": {"class_path": "datamodules.PointMassData", "init_args": SMALL}},
    "arm": {"data": {"class_path": "datamodules.ArmData", "init_args": SMALL}},
    "mdm": {
        "model": {
            "class_path": "mdm.MDM",
            "init_args": {"denoiser": DENOISER},
        },
        "trainer": FIT,
    },
    "generation": {"model": {"class_path": "mdm.Generation", "init_args": {"samples": 8}}},
    "inverse": {"model": {"class_path": "inverse.Inverse", "init_args": {"samples": 4}}},
    **{
        name.lower(): {
            "model": {
                "class_path": "inverse.Inverse",
                "init_args": {
                    "solver": {
                        "class_path": f"inverse.{name}",
                        "init_args": {"transition": SHORT},
                    }
                },
            }
        }
        for name in ("DPS", "DSG", "Trust")
    },
}


@pytest.mark.parametrize("kind", ["point", pytest.param("arm", marks=pytest.mark.slow)])
def test_run_goes_from_data_to_a_report(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs" / "motion", "configs/motion")
    shutil.copy(ROOT / "configs" / "trainer.yaml", "configs")
    folder = Path("configs/motion/tiny")
    folder.mkdir()
    for name, content in TINY.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    file = Path("configs/motion/run.yaml")
    stages = yaml.safe_load(file.read_text())["stages"]
    data = stages[kind]["configs"][0]
    mine = {name: s for name, s in stages.items() if data in s.get("configs", [data])}
    # one solver for each task
    tasks = [name.split("/")[0] for name in mine if name.endswith("/trust")]
    for task, solver in zip(tasks, ("dps", "dsg", "trust"), strict=False):
        for other in {f"{task}/{s}" for s in ("dps", "dsg", "trust")} - {f"{task}/{solver}"}:
            del mine[other]
    file.write_text(yaml.safe_dump({"stages": mine}, sort_keys=False))

    assert main(["run", "configs/motion", "--scale", "tiny"]) is None

    runs = Path("runs/motion-tiny")
    rows = json.loads((runs / "results.json").read_text())["rows"]
    assert {row["task"] for row in rows} == {f"generation of {kind}", *tasks}
    assert all(math.isfinite(row["value"]) for row in rows)
    assert (runs / "report.png").exists()
