"""The Kolmogorov flow: its solver and its constraints."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import Divergence, InputError, NavierStokes, Sum, noise, spectral
from datamodules import check_fits

CONSTRAINTS = (Divergence(), NavierStokes())


TAU = 2 * np.pi


@pytest.fixture(scope="module")
def fields(kolmogorov_reference: Path) -> Tensor:
    """The reference fields, with shape (4, 16, 64, 64)."""

    with h5py.File(kolmogorov_reference) as file:
        return torch.from_numpy(file["test/x"][:])


def flow_step(u: np.ndarray, v: np.ndarray, h: float, dt: float, flow: NavierStokes) -> Any:
    """One step, written a second time: loops over points, and an explicit Laplacian."""

    rows, columns = u.shape
    points = [(i, j) for i in range(rows) for j in range(columns)]

    def at(c: np.ndarray, i: int, j: int) -> float:
        return c[i % rows, j % columns]

    def face_flux(c: np.ndarray, speed: float, i: int, j: int, di: int, dj: int) -> float:
        """The flux between the points (i, j) and (i + di, j + dj) of c."""
        c_0, c_1 = at(c, i, j), at(c, i + di, j + dj)
        before, after = at(c, i - di, j - dj), at(c, i + 2 * di, j + 2 * dj)
        courant = speed * dt / h
        if speed > 0:
            low, high, rise = c_0, c_0 + (1 - courant) * (c_1 - c_0) / 2, c_0 - before
        else:
            low, high, rise = c_1, c_1 - (1 + courant) * (c_1 - c_0) / 2, after - c_1
        r = rise / (c_1 - c_0 if c_1 != c_0 else 1.0)
        phi = 2 * r / (1 + r) if r > 0 else 0.0
        return speed * (low - (low - high) * phi)

    def rate(c: np.ndarray, i: int, j: int, ci: int, cj: int) -> float:
        """Convection and diffusion of c, which sits half a cell off along (ci, cj)."""
        total = 0.0
        for speeds, di, dj in ((u, 1, 0), (v, 0, 1)):
            for k, sign in ((0, -1), (-1, 1)):
                a, b = i + k * di, j + k * dj
                speed = (at(speeds, a, b) + at(speeds, a + ci, b + cj)) / 2
                total += sign * face_flux(c, speed, a, b, di, dj) / h
            total += (
                flow.viscosity
                * (at(c, i + di, j + dj) - 2 * at(c, i, j) + at(c, i - di, j - dj))
                / h**2
            )
        return total

    new_u, new_v = np.empty_like(u), np.empty_like(v)
    for i, j in points:
        force = flow.amplitude * np.sin(flow.wavenumber * (j + 0.5) * h)
        new_u[i, j] = u[i, j] + dt * (rate(u, i, j, 1, 0) + force - flow.drag * u[i, j])
        new_v[i, j] = v[i, j] + dt * (rate(v, i, j, 0, 1) - flow.drag * v[i, j])

    laplacian = np.zeros((rows * columns, rows * columns))
    divergence = np.zeros(rows * columns)
    for row, (i, j) in enumerate(points):
        divergence[row] = (new_u[i, j] - at(new_u, i - 1, j)) / h
        divergence[row] += (new_v[i, j] - at(new_v, i, j - 1)) / h
        for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            laplacian[row, row] -= 1 / h**2
            laplacian[row, points.index(((i + di) % rows, (j + dj) % columns))] += 1 / h**2
    p = (np.linalg.pinv(laplacian) @ divergence).reshape(rows, columns)
    for i, j in points:
        new_u[i, j] -= (at(p, i + 1, j) - p[i, j]) / h
        new_v[i, j] -= (at(p, i, j + 1) - p[i, j]) / h
    return new_u, new_v


def taylor_green(points: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Vortices that decay without moving, by exp(-2 viscosity t)."""

    face = TAU / points * (torch.arange(points, dtype=dtype) + 1)
    middle = face - TAU / points / 2
    return torch.stack([face.cos()[:, None] * middle.sin(), -middle.sin()[:, None] * face.cos()])


# against other solvers and exact solutions
def test_reference_fields_satisfy_both_constraints(
    fields: Tensor, kolmogorov_reference: Path
) -> None:
    for constraint in (*CONSTRAINTS, Sum(list(CONSTRAINTS))):
        check_fits(kolmogorov_reference, constraint)
    change = (fields[:, 2:] - fields[:, :-2]).abs().flatten(1).mean(dim=1)

    assert (Divergence()(fields) <= 1e-6).all()
    assert (NavierStokes()(fields) <= 1e-5 * change).all()
    # and no other equation
    others = ({"viscosity": 2e-3}, {"drag": 0.0}, {"amplitude": 0.9}, {"wavenumber": 3.0})
    for other in others:
        assert (NavierStokes(**other)(fields) > 1e-3 * change).all()


def test_reference_fields_with_swapped_axes_have_a_divergence(fields: Tensor) -> None:
    assert (Divergence()(fields.transpose(2, 3)) > 1).all()


@pytest.mark.parametrize("shape", [(4, 4), (5, 6), (3, 7)])
def test_step_agrees_with_formulas_written_a_second_time(shape: tuple[int, int]) -> None:
    rows, columns = shape
    length = TAU * rows / columns  # so that the force is periodic in y
    flow = NavierStokes(0.05, length, 2.0, 1.3, 0.4, dt=0.3, substeps=3)
    uv = noise([(0, "state")], (2, *shape), torch.empty(0).double())  # with a divergence
    u, v = uv[0].numpy()
    for _ in range(3):
        u, v = flow_step(u, v, length / rows, 0.1, flow)

    expected = torch.from_numpy(np.stack([u, v]))
    torch.testing.assert_close(flow.step(uv)[0], expected, rtol=0, atol=1e-12)


def test_flux_across_a_plateau_agrees_too() -> None:
    flow = NavierStokes(length=TAU, dt=0.1, substeps=1)
    uv = torch.zeros(2, 8, 8, dtype=torch.float64)
    uv[0, 2:5, 3:6], uv[1, 4:7] = 1.0, -0.5  # zero differences on both sides
    expected = np.stack(flow_step(*uv.numpy(), TAU / 8, 0.1, flow))

    torch.testing.assert_close(flow.step(uv), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_order_of_convergence_in_time() -> None:
    uv = taylor_green(16)

    def solve(substeps: int) -> Tensor:
        flow = NavierStokes(0.05, amplitude=0.0, drag=0.0, dt=1.0, substeps=substeps)
        return flow.step(uv)

    steps = (20, 40, 80, 160)
    limit = solve(2560)
    errors = [(solve(n) - limit).abs().mean() for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]

    assert -slope == pytest.approx(1.0, abs=0.1)


def test_order_of_convergence_in_space() -> None:
    points, errors = (8, 16, 32, 64), []
    for n in points:
        flow = NavierStokes(0.05, amplitude=0.0, drag=0.0, dt=0.5, substeps=n * n // 8)
        exact = np.exp(-2 * 0.05 * 0.5) * taylor_green(n)
        errors.append((flow.step(taylor_green(n)) - exact).abs().mean())
    slope = np.polyfit(np.log(points), np.log(errors), 1)[0]

    # the limiter is of first order at the extrema, which are few
    assert -slope >= 1.5


def test_momentum_and_divergence_are_kept() -> None:
    flow = NavierStokes(amplitude=0.0, drag=0.0, dt=10.0, substeps=1000)
    uv = taylor_green(32, torch.float32) + torch.tensor([0.3, -0.2])[:, None, None]
    after = flow.roll(uv, 1)[0]

    assert (after.mean(dim=(1, 2)) - uv.mean(dim=(1, 2))).abs().max() <= 1e-5
    assert Divergence(TAU / 32)(after[None]).max() <= 1e-5
    assert (after - uv).abs().max() > 0.1


def test_drag_slows_a_uniform_flow_and_the_force_drives_one() -> None:
    flow = NavierStokes(viscosity=0.0, drag=0.5, dt=0.1, substeps=1)
    rest = torch.zeros(2, 16, 16, dtype=torch.float64)
    y = TAU / 16 * (torch.arange(16) + 0.5)
    driven = torch.stack([0.1 * torch.sin(4 * y).expand(16, 16), rest[0]])

    torch.testing.assert_close(flow.step(rest), driven.double(), rtol=0, atol=1e-7)
    slowed = flow.step(rest + 1) - flow.step(rest)
    # a uniform flow across the force also carries it along, which has no mean
    torch.testing.assert_close(slowed.mean(dim=(1, 2)), torch.full((2,), 0.95).double())


# vector calculus
@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (3, 10)])
def test_projection(shape: tuple[int, int]) -> None:
    uv = torch.randn(4, 2, *shape, dtype=torch.float64)
    projected = spectral.project(uv)
    removed = uv - projected

    assert spectral.divergence(projected).abs().max() <= 1e-13
    torch.testing.assert_close(spectral.project(projected), projected, rtol=0, atol=1e-13)
    # the nearest: what is removed is orthogonal to all that may stay
    other = spectral.project(torch.randn_like(uv))
    torch.testing.assert_close(
        (removed * other).sum(dim=(1, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_modes_are_orthonormal_and_diagonalise_second_differences(n: int) -> None:
    basis = spectral.modes(n, torch.float64, torch.device("cpu"))
    second = basis.roll(1, 0) + basis.roll(-1, 0) - 2 * basis
    values = 2 * torch.cos(TAU * spectral.wavenumbers(n) / n) - 2

    torch.testing.assert_close(basis.T @ basis, torch.eye(n).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(second, basis * values, rtol=0, atol=1e-14)


# the contract of constraints
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("kind", ["noise", "zero"])
def test_value_and_gradient_are_finite(constraint: Any, kind: str) -> None:
    x = 0.95 * noise([(0, i) for i in range(2)], (6, 64, 64))
    x = (x if kind == "noise" else torch.zeros_like(x)).requires_grad_()
    distance = constraint(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)

    assert torch.isfinite(distance).all() and torch.isfinite(gradient).all()
    if kind == "noise":
        assert (distance > 0.1).all() and gradient.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("shape", [(4, 3, 4), (6, 5, 3)])
def test_gradient_of_the_residuals(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    flow = NavierStokes(0.02, 3.0, TAU / 3.0 * shape[1] / shape[2], dt=0.2, substeps=2)
    flow.check_shape(x)

    for constraint in (flow, Divergence(0.5)):
        assert torch.autograd.gradcheck(constraint.residual, (x,), check_forward_ad=True)


@pytest.mark.parametrize("shape", [(8, 64, 64), (6, 9, 9)])
def test_sample_is_the_same_alone_and_in_a_batch(shape: tuple[int, int, int]) -> None:
    x = noise([(0, i) for i in range(5)], shape)
    for constraint in CONSTRAINTS:
        together = constraint(x)
        assert torch.equal(together, torch.cat([constraint(field[None]) for field in x]))
        assert torch.equal(together[1:4], constraint(x[1:4]))


def test_samples_are_independent() -> None:
    x = torch.rand(3, 4, 8, 8, requires_grad=True)
    broken = x.detach().clone()
    broken[1] = float("nan")
    for constraint in CONSTRAINTS:
        (gradient,) = torch.autograd.grad(constraint(x)[1], x)
        assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()
        assert torch.equal(constraint(x)[::2], constraint(broken)[::2])


def test_states_rolled_out_are_those_of_single_steps() -> None:
    flow, uv = NavierStokes(), spectral.project(torch.randn(5, 2, 32, 32))
    frames = [uv]
    for _ in range(3):
        frames.append(flow.step(frames[-1]))

    assert torch.equal(flow.roll(uv, 3), torch.stack(frames[1:]))
    assert torch.equal(flow.roll(uv, 3, first=2), torch.stack(frames[2:]))
    assert torch.equal(flow.roll(uv, 1, first=0), torch.stack(frames[:2]))
    assert torch.equal(flow.roll(uv[0], 1)[0], frames[1][0])


def test_states_are_the_same_on_two_threads() -> None:
    flow, uv = NavierStokes(), torch.randn(20, 2, 32, 32)  # of three parts
    alone = flow.roll(uv, 1)
    torch.set_num_threads(2)

    assert torch.equal(flow.roll(uv, 1), alone)
    assert torch.get_num_threads() == 2


def test_field_made_by_its_step_satisfies_it_and_no_other() -> None:
    flow, uv = NavierStokes(), spectral.project(torch.randn(3, 2, 16, 16).double())
    x = flow.roll(uv, 3, first=0).transpose(0, 1).flatten(1, 2)

    assert flow(x).max() <= 1e-15 and Divergence(TAU / 16)(x).max() <= 1e-13
    for other in (NavierStokes(viscosity=2e-3), NavierStokes(dt=0.21)):
        assert other(x).min() > 1e-4


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: type(c).__name__)
def test_number_of_unknowns_is_what_the_residual_leaves_free(constraint: Any) -> None:
    x = torch.rand(1, 4, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(constraint.residual, x).reshape(-1, x.numel())
    free = x.numel() - int(torch.linalg.matrix_rank(jacobian))

    assert constraint.unknowns(x.shape[1:]) == free


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 4, 2, 8), (4, 8, 8), (1, 0, 8, 8)])
def test_shape_that_cannot_be_judged_is_refused(shape: tuple[int, ...]) -> None:
    for constraint in CONSTRAINTS:
        with pytest.raises(InputError, match=re.escape(str(tuple(shape)))):
            constraint.check_shape(torch.zeros(shape))


def test_flow_refuses_single_states_and_a_force_that_ends_at_the_edge() -> None:
    Divergence().check_shape(torch.zeros(1, 2, 3, 3))
    NavierStokes().check_shape(torch.zeros(1, 4, 4, 5, 4)[..., 0])

    with pytest.raises(InputError, match=r"\b2\b"):
        NavierStokes().check_shape(torch.zeros(1, 2, 8, 8))
    with pytest.raises(InputError, match=r"2\.5"):
        NavierStokes(wavenumber=2.5).check_shape(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    "options", [{"viscosity": -1.0}, {"length": 0.0}, {"dt": -2.0}, {"substeps": 0}]
)
def test_parameters_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        NavierStokes(**options)
    with pytest.raises(ValueError, match=r"-0\.1"):
        Divergence(-0.1)
