"""Simulated motion: its limits, the equations of the arm, and its file."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import Box, InputError, PlanarArm, Waypoints, noise
from datamodules import ArmData, FieldData, PointMassData, check_fits, read_attributes

LIMITS = Box(-3.0, 3.0)


def paths(n: int, *shape: int) -> Tensor:
    return noise([("path", i) for i in range(n)], shape or (2, 6, 1)).double()


def point_mass(file: str = "", **options: Any) -> PointMassData:
    return PointMassData(options.pop("constraint", LIMITS), file=file, sizes={}, **options)


def arm(file: str = "", **options: Any) -> ArmData:
    return ArmData(options.pop("constraint", LIMITS), file=file, sizes={}, **options)


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
    with pytest.raises(InputError, match="constraint"):
        # a task is asked of samples: data do not fulfil it
        wrong = PointMassData(file=str(tmp_path / "new.h5"), **options)
        wrong.constraint = reach.requires_grad_(False)  # type: ignore[assignment]
        wrong.prepare_data()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: point_mass(constraint=Box(0.0, math.inf)), "Box|limits"),
        (lambda: arm(constraint=Box([0.0] * 3, 1.0)), "3 channels"),
        (lambda: point_mass(knots=3), r"knots.*\b3\b"),
        (lambda: arm(frames=1), r"frames.*\b1\b"),
        (lambda: arm(lengths=[1.0, 1.0, 1.0]), "lengths"),
        (lambda: arm(damping=-1.0), r"damping.*-1\.0"),
    ],
)
def test_motion_that_makes_no_sense_is_refused(
    build: Callable[[], FieldData], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_limits_that_no_motion_keeps_are_named() -> None:
    with pytest.raises(InputError, match=r"torque"):
        arm(constraint=Box(-0.2, 0.2)).simulate(2, seed=0)
