"""The loop that guided solvers share: its gradients, its costs and its guard."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from constraints import Burgers, Constraint, Given
from inverse import (
    DPS,
    DSG,
    LGDMC,
    ConstantBudget,
    Cost,
    Operator,
    PiGDM,
    Pullback,
    Residual,
    Run,
    Select,
    Sequential,
    Trust,
    guard,
)
from mdm import DDIM, Ancestral, ChainSampler, Denoiser, Level, Transition
from tests.inverse.answers import TRANSITIONS, Late, measured, solve
from tests.problems import Affine, gaussian, tiny_denoiser, tiny_mirror


@pytest.mark.parametrize("kind", ["plain", "constrained", "mirrored"])
@pytest.mark.parametrize("protocol", TRANSITIONS)
def test_sample_is_the_same_alone_and_in_a_batch(protocol: str, kind: str) -> None:
    operator, m = measured(16)
    torch.manual_seed(0)
    pulled = Pullback(operator, tiny_mirror().eval()) if kind == "mirrored" else operator
    constraint = Burgers() if kind == "constrained" else None
    solver = DPS(0.05, constraint, transition=TRANSITIONS[protocol])
    denoiser, seeds = tiny_denoiser(), list(range(16))
    together = solver(denoiser, pulled, m, (1, 8, 8), seeds)
    for i in (0, 7, 15):
        alone = solver(denoiser, pulled, m[i : i + 1], (1, 8, 8), seeds[i : i + 1])
        torch.testing.assert_close(alone.noisy[0], together.noisy[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.y[0], together.y[i], rtol=0, atol=1e-5)


def test_clean_chain_ends_on_its_mean() -> None:
    clean = solve(DPS(transition=DDIM(5)))
    assert clean.noisy is clean.y

    published = solve(DPS(transition=Late()), n=32)
    # 2048 numbers: the std is known to 1.6 %
    assert float((published.noisy - published.y).std()) == pytest.approx(0.0074, rel=0.08)


@pytest.mark.parametrize("constraint", [None, Burgers()])
@pytest.mark.parametrize(("transition", "steps"), [(None, 100), (DDIM(7), 7), (Ancestral(), 1000)])
def test_cost_is_one_call_and_one_product_a_step(
    constraint: Constraint | None, transition: Transition | None, steps: int
) -> None:
    denoiser = gaussian()
    operator = Select(-1, 2, 4)
    m = torch.zeros(2, 1, 3, 2, dtype=torch.float64)
    DPS(constraint=constraint, transition=transition)(denoiser, operator, m, (1, 3, 4), [0, 1])

    assert (denoiser.calls, denoiser.vjps) == (steps, steps)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_solver_finds_its_gradients_in_every_mode(mode: Callable[[], Any]) -> None:
    solver, denoiser = DPS(0.05, Burgers(), transition=DDIM(4)), tiny_denoiser()
    operator = Pullback(Select(-1, 3, 8), Affine())
    expected = solve(solver, denoiser=denoiser, operator=operator)
    with mode():
        # where the measurements are made too, as a data loader does
        found = solve(solver, denoiser=denoiser, operator=operator).y.clone()

    assert torch.equal(found, expected.y)


def test_weights_of_the_prior_receive_no_gradient() -> None:
    denoiser = tiny_denoiser()
    solve(DPS(transition=DDIM(3)), denoiser=denoiser)

    assert all(w.grad is None for w in denoiser.parameters())


# the guard
def test_guard_leaves_out_what_has_blown_up() -> None:
    move = torch.ones(5, 1, 2, 2)
    move[1, 0, 0, 0] = float("nan")
    move[2] = float("inf")
    move[3] = 1e4
    move[4] = 999.0
    scale = torch.tensor([2.0, 2.0, 0.0, 2.0, 2.0])
    kept, fresh, bad = guard(move, scale)

    assert bad.tolist() == [False, True, True, True, False]
    assert not kept[1:4].any() and torch.equal(kept[[0, 4]], move[[0, 4]])
    # the scale is a running mean of norms, into which one too large enters as 1000 times the scale
    assert fresh.tolist() == pytest.approx([2.0, 2.0, 0.0, 1.8 + 200.0, 1.8 + 199.8])


def test_guard_lets_in_a_guidance_that_stays_large() -> None:
    scale, left_out = torch.zeros(1), []
    for norm in (1.0, 1.0, 5e3, 5e3, 5e3):
        _, scale, bad = guard(torch.full((1, 1, 1, 1), norm), scale)
        left_out.append(bool(bad))

    assert left_out == [False, False, True, False, False]


def test_guard_takes_the_first_guidance_as_its_scale() -> None:
    move = 1e6 * torch.ones(2, 1, 2, 2)
    kept, scale, bad = guard(move, torch.zeros(2))

    assert torch.equal(kept, move) and not bad.any() and scale.tolist() == [2e6, 2e6]
    nothing, scale, bad = guard(torch.zeros(1, 1, 2, 2), torch.zeros(1))
    assert not nothing.any() and not bad.any() and scale.tolist() == [0]


class Breaking(Operator):
    """A selection whose answer for sample 1 is off by a factor in one call."""

    def __init__(self, factor: float, call: int = 4) -> None:
        super().__init__(0.2)
        self.select, self.factor, self.call, self.calls = Select(-1, 3, 8), factor, call, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        m = self.select(x)
        if self.calls != self.call:
            return m
        return torch.cat([m[:1], self.factor * m[1:2], m[2:]])


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e8])
def test_broken_guidance_of_a_sample_is_left_out_and_counted(factor: float) -> None:
    solver = DPS(0.05, transition=DDIM(10))
    good = solve(solver, operator=Breaking(1.0))
    broken = solve(solver, operator=Breaking(factor))

    assert good.report["rejected"] == [0, 0, 0]
    assert broken.report["rejected"] == [0, 1, 0]
    assert torch.equal(good.y[[0, 2]], broken.y[[0, 2]])
    assert torch.isfinite(broken.y).all() and not torch.equal(good.y[1], broken.y[1])


def test_step_without_guidance_is_that_of_the_prior() -> None:
    # all but one step broken: the last step alone is guided
    class Always(Breaking):
        def forward(self, x: Tensor) -> Tensor:
            return float("nan") * self.select(x)

    found = solve(DPS(0.05, transition=DDIM(10)), operator=Always(0.0))
    free = ChainSampler(DDIM(10))(tiny_denoiser(), (1, 8, 8), range(100, 103))

    assert found.report["rejected"] == [10, 10, 10]
    assert torch.equal(found.noisy, free.noisy)


def test_exact_fit_has_no_guidance() -> None:
    class Blind(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x[..., :3]

    denoiser = tiny_denoiser()
    m = torch.zeros(2, 1, 8, 3)
    found = DPS(0.05, transition=DDIM(5))(denoiser, Blind(0.1), m, (1, 8, 8), [0, 1])
    free = ChainSampler(DDIM(5))(tiny_denoiser(), (1, 8, 8), [0, 1])

    assert found.report["rejected"] == [0, 0] and torch.equal(found.noisy, free.noisy)


def test_other_guidance_shares_the_loop() -> None:
    class Pull(Sequential[None]):
        """Moves every mean by a constant."""

        def step(self, run: Run, state: None, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
            return level.land(level.mean(run.denoiser(y_t, level.t.to(y_t)), y_t) + 0.5)

        def cost(self, denoiser: Denoiser) -> Cost:
            return Cost(1, 0)

    one = solve(Pull(DDIM(1)))
    free = ChainSampler(DDIM(1))(tiny_denoiser(), (1, 8, 8), range(100, 103))

    torch.testing.assert_close(one.noisy, free.noisy + 0.5)


class Brightness(Constraint):
    """Fields whose sum is that of their own sample."""

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        assert given is not None
        return x.flatten(1).sum(dim=1, keepdim=True) - given["total"][:, None]


GIVEN = [
    DPS(0.05, Brightness(), transition=DDIM(4)),
    DSG(0.2, 1, Brightness(), transition=DDIM(4)),
    LGDMC(2, 0.05, constraint=Brightness(), transition=DDIM(4)),
    Trust(ConstantBudget(1), constraint=Brightness(), transition=DDIM(4)),
]


@pytest.mark.parametrize("solver", GIVEN, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("mirrored", [False, True])
def test_constraint_sees_the_data_of_each_sample(solver: Sequential, mirrored: bool) -> None:
    operator, m = measured(3)
    pulled = Pullback(operator, Affine(2.0, 1.0, 0.5)) if mirrored else operator
    given = {"total": torch.tensor([3.0, -30.0, 60.0])}
    answer = (tiny_denoiser(), pulled)
    y = solver(*answer, m, (1, 8, 8), range(3), given).y
    for i in range(3):
        own = {"total": given["total"][i : i + 1]}
        alone = solver(*answer, m[i : i + 1], (1, 8, 8), [i], own).y
        torch.testing.assert_close(alone[0], y[i], rtol=0, atol=1e-5)
    other = solver(*answer, m, (1, 8, 8), range(3), {"total": given["total"].flip(0)}).y
    assert not torch.equal(other[0], y[0]) and torch.equal(other[1], y[1])


@pytest.mark.parametrize("solver", [DPS(transition=DDIM(4)), PiGDM(transition=DDIM(4, 0.0))])
def test_residual_sees_the_data_of_each_sample(solver: Sequential) -> None:
    operator, m = Residual(Brightness()), torch.zeros(2, 1)
    given = {"total": torch.tensor([60.0, -60.0])}
    for pulled in (operator, Pullback(operator, Affine(2.0, 1.0, 0.5))):
        y = solver(tiny_denoiser(), pulled, m, (1, 8, 8), range(2), given).y
        swapped = {"total": given["total"].flip(0)}
        other = solver(tiny_denoiser(), pulled, m, (1, 8, 8), range(2), swapped).y
        assert not torch.equal(y, other)
    assert not operator.measure(torch.zeros(2, 1, 8, 8), range(2), given).any()
