"""Constraints: the physics of Burgers, sums of constraints, and randomness by key."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import (
    Burgers,
    Constraint,
    InputError,
    Sum,
    TotalBrightness,
    derive_seed,
    noise,
    uniform,
)
from problems import Total

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

    with pytest.raises(InputError, match=r"\(B, 1, X, T\).*got \(" + str(shape)[1:-1]):
        Burgers().check_shape(torch.zeros(shape))


@pytest.mark.parametrize(
    "options", [{"scheme": "leapfrog"}, {"viscosity": 0.0}, {"dt": -1.0}, {"substeps": 0}]
)
def test_parameters_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        Burgers(**options)


# sums


class Largest(Constraint):
    """A constraint that has a distance but no residual."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().flatten(1).amax(dim=1)


def test_sum_is_the_weighted_sum_of_its_terms() -> None:
    terms: list[Constraint] = [Burgers(), Total(2.0), Burgers("crank_nicolson")]
    x = torch.rand(5, 1, 8, 6, dtype=torch.float64)
    both = Sum(terms, [0.5, 2.0, 3.0])
    expected = 0.5 * terms[0](x) + 2 * terms[1](x) + 3 * terms[2](x)

    torch.testing.assert_close(both(x), expected, rtol=1e-14, atol=0)
    # terms of 40, 1 and 40 entries, stacked, mean the same
    assert both.residual(x).shape == (5, 81)
    torch.testing.assert_close(both.residual(x).abs().mean(dim=1), expected, rtol=1e-14, atol=0)


def test_sum_weighs_each_term_with_one_by_default() -> None:
    x = torch.rand(2, 1, 8, 6)

    assert torch.equal(Sum([Burgers(), Total()])(x), Burgers()(x) + Total()(x))


def test_sum_of_a_term_without_residual_has_a_distance() -> None:
    x, both = torch.rand(2, 1, 8, 6), Sum([Total(), Largest()], [1.0, 2.0])

    assert torch.equal(both(x), Total()(x) + 2 * Largest()(x))
    with pytest.raises(NotImplementedError, match="Largest defines a distance but no residual"):
        both.residual(x)


def test_sum_passes_on_what_its_terms_ask_of_a_file() -> None:
    both = Sum([Total(), Burgers(viscosity=0.1)])

    assert Total().attributes() == {}
    assert both.attributes() == Burgers(viscosity=0.1).attributes()
    with pytest.raises(InputError, match="Burgers expects"):
        both.check_shape(torch.zeros(1, 2, 8, 8))


def test_sum_of_terms_that_ask_for_different_files_is_refused() -> None:
    both = Sum([TotalBrightness(100.0), TotalBrightness(120.0)])

    with pytest.raises(InputError, match="different parameters.*100.0.*120.0"):
        both.attributes()


def test_sum_refuses_other_numbers_of_weights() -> None:
    with pytest.raises(ValueError, match="2 weights for 1 terms"):
        Sum([Total()], [1.0, 2.0])
    with pytest.raises(ValueError, match="got none"):
        Sum([])


# randomness


@pytest.mark.parametrize("draw", [noise, uniform])
def test_draw_depends_on_its_key_alone(draw) -> None:
    keys = [(0, "train", i, 3) for i in range(6)]
    x = draw(keys, (2, 5))
    before = torch.get_rng_state()
    torch.manual_seed(1)

    assert x.shape == (6, 2, 5)
    assert torch.equal(draw(keys[::-1], (2, 5)), x.flip(0))
    assert torch.equal(torch.cat([draw([key], (2, 5)) for key in keys]), x)
    torch.set_rng_state(before)
    draw(keys, (3,))
    assert torch.equal(before, torch.get_rng_state())


def test_different_keys_draw_different_numbers() -> None:
    keys = [(a, b, c) for a in (0, 1, "1") for b in ("train", "val") for c in (0, 1, -1)]
    keys += [(0,), (0, "train"), (0, "train", 0, 0), (1, 0), (10,), ("0",)]
    seeds = {derive_seed(*key) for key in keys}

    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({x.item() for x in noise(keys, ())}) == len(keys)


def test_key_means_the_same_in_every_process() -> None:
    code = "from constraints import derive_seed; print(derive_seed(7, 'namm', 3))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[1],
        env={"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(run.stdout) == derive_seed(7, "namm", 3)


def test_draws_follow_dtype_but_not_its_digits() -> None:
    like = torch.zeros((), dtype=torch.float64)
    x = noise([(0,)], (4,), like)

    assert x.dtype == torch.float64 and noise([(0,)], (4,)).dtype == torch.float32
    assert torch.equal(x, noise([(0,)], (4,)).double())


def test_draws_have_their_distributions() -> None:
    # 400 keys of 100 numbers: the error of a mean is 1 / 200 in units of the std; 5 of them
    keys = [(0, "test", i) for i in range(400)]
    normal, flat = noise(keys, (100,)), uniform(keys, (100,))

    assert normal.mean().abs() < 0.025 and (normal.var() - 1).abs() < 5 * 2**0.5 / 200
    assert normal[:, 0].std() == pytest.approx(1, abs=5 / 800**0.5)  # across keys alone
    assert flat.min() >= 0 and flat.max() < 1
    assert (flat.mean() - 0.5).abs() < 0.025 / 12**0.5
    # neighbouring keys are not correlated
    assert (normal[1:] * normal[:-1]).mean().abs() < 0.025
