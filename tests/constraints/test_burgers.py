"""The physics of Burgers: the scheme, its residual and its refusals."""

import re
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import Burgers, InputError, noise
from tests.problems import Total

Scheme = Literal["euler", "crank_nicolson"]


SCHEMES = ("euler", "crank_nicolson")


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return request.param


@pytest.fixture
def fields(reference: Path) -> Tensor:
    """The reference fields, with shape (8, 1, 64, 64)."""

    with h5py.File(reference) as file:
        return torch.from_numpy(file["test/x"][:])


def velocity(u: Tensor, dx: float, viscosity: float) -> Tensor:
    """The right-hand side of the Burgers equation, with an explicit matrix for each derivative."""

    n = u.shape[-2]
    index = torch.arange(n)
    first = torch.zeros(n, n, dtype=u.dtype)
    first[index, (index + 1) % n], first[index, (index - 1) % n] = 1, -1
    second = torch.zeros(n, n, dtype=u.dtype)
    second[index, (index + 1) % n] = second[index, (index - 1) % n] = 1
    second[index, index] = -2
    return viscosity * (second @ u) / dx**2 - u * (first @ u) / (2 * dx)


# Burgers
@pytest.mark.parametrize(
    ("scheme", "least", "most"), [("euler", 0, 1e-7), ("crank_nicolson", 1e-4, 3e-4)]
)
def test_reference_fields_follow_explicit_euler(
    fields: Tensor, scheme: Scheme, least: float, most: float
) -> None:
    distance = Burgers(scheme)(fields)

    assert distance.shape == (8,)
    assert (distance >= least).all() and (distance <= most).all()


@pytest.mark.parametrize("turned", [(-2,), (-1,), (-2, -1)])
def test_reference_fields_turned_around_do_not(fields: Tensor, turned: tuple[int, ...]) -> None:
    assert (Burgers()(fields.flip(turned)) > 1e-3).all()


def test_step_solves_its_scheme() -> None:
    u, dx = torch.rand(16, 5, dtype=torch.float64), 10 / 15
    euler, implicit = (Burgers(scheme, dt=0.1, substeps=1).step(u) for scheme in SCHEMES)

    before = velocity(u, dx, 0.05)
    torch.testing.assert_close(euler, u + 0.1 * before, rtol=0, atol=1e-14)
    after = velocity(implicit, dx, 0.05)
    torch.testing.assert_close(implicit, u + 0.05 * (before + after), rtol=0, atol=1e-14)
    # the implicit scheme is not its own first iterate, which is the explicit one
    assert (implicit - euler).abs().max() > 1e-3


@pytest.mark.parametrize("start", ["sine", "reference"])
@pytest.mark.parametrize(("scheme", "order"), [("euler", 1.0), ("crank_nicolson", 2.0)])
def test_order_of_convergence_in_time(
    fields: Tensor, scheme: Scheme, order: float, start: str
) -> None:
    x = 2 * torch.pi * torch.arange(64, dtype=torch.float64) / 64
    u = x.sin()[:, None] if start == "sine" else fields[:4, 0, :, 10].T.double()

    def solve(scheme: Scheme, substeps: int) -> Tensor:
        return Burgers(scheme, dt=1.0, substeps=substeps).step(u)

    # two implicit solutions without their leading error: off by the fourth power of 1 / 160
    limit = (4 * solve("crank_nicolson", 320) - solve("crank_nicolson", 160)) / 3
    steps = (10, 20, 40, 80)
    errors = [(solve(scheme, n) - limit).square().mean().sqrt() for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]

    assert -slope == pytest.approx(order, abs=0.1)


def test_value_and_gradient_are_finite_on_white_noise(scheme: Scheme) -> None:
    x = noise([(0, i) for i in range(4)], (1, 64, 64)).requires_grad_()
    distance = Burgers(scheme)(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)

    assert torch.isfinite(distance).all() and (distance > 0.1).all()
    assert torch.isfinite(gradient).all() and gradient.flatten(1).any(dim=1).all()


def test_gradient_of_the_residual(scheme: Scheme) -> None:
    x = torch.rand(1, 1, 5, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(Burgers(scheme, length=2.0).residual, (x,))


@pytest.mark.parametrize("kind", ["reference", "noise"])
def test_sample_is_the_same_alone_and_in_a_batch(
    fields: Tensor, scheme: Scheme, kind: str
) -> None:
    x = torch.cat([fields, fields.roll(7, -2)])[..., :16].contiguous()
    x = noise([(0, i) for i in range(16)], (1, 32, 16)) if kind == "noise" else x
    constraint = Burgers(scheme)
    together = constraint(x)

    assert torch.equal(together, torch.cat([constraint(field[None]) for field in x]))
    assert torch.equal(together[3:8], constraint(x[3:8]))


def test_samples_are_independent(scheme: Scheme) -> None:
    x = torch.rand(3, 1, 8, 4, requires_grad=True)
    constraint = Burgers(scheme)
    (gradient,) = torch.autograd.grad(constraint(x)[1], x)
    broken = x.detach().clone()
    broken[1] = float("nan")

    assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()
    assert torch.equal(constraint(x)[::2], constraint(broken)[::2])


def test_shift_of_a_field_shifts_its_residual(scheme: Scheme) -> None:
    x = torch.rand(2, 1, 12, 4, dtype=torch.float64)
    residual = Burgers(scheme).residual

    torch.testing.assert_close(
        residual(x.roll(5, -2)), residual(x).roll(5, -2), rtol=0, atol=1e-13
    )


def test_field_made_by_its_step_satisfies_it_and_no_other(scheme: Scheme) -> None:
    constraint = Burgers(scheme)
    frames = [torch.rand(16, 3, dtype=torch.float64)]
    for _ in range(6):
        frames.append(constraint.step(frames[-1]))
    x = torch.stack(frames, dim=-1).transpose(0, 1).unsqueeze(1)  # (3, 1, 16, 7)

    assert constraint(x).max() <= 1e-15
    for other in (Burgers(scheme, viscosity=0.06), Burgers(scheme, dt=0.13), Total(0)):
        assert other(x).min() > 1e-4


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 1, 2, 8), (1, 1, 8, 1), (1, 8, 8)])
def test_shape_that_cannot_be_judged_is_refused(shape: tuple[int, ...]) -> None:
    Burgers().check_shape(torch.zeros(1, 1, 3, 2))

    with pytest.raises(InputError, match=re.escape(str(tuple(shape)))):
        Burgers().check_shape(torch.zeros(shape))


@pytest.mark.parametrize(
    "options", [{"scheme": "leapfrog"}, {"viscosity": 0.0}, {"dt": -1.0}, {"substeps": 0}]
)
def test_parameters_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        Burgers(**options)
