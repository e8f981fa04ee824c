"""Inverse problems: operators, DPS in both spaces, its guard, and the test stage."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from constraints import Burgers, Constraint, InputError, derive_seed, noise
from inverse import (
    DPS,
    ConstantBudget,
    Cost,
    CPiGDM,
    Inverse,
    Operator,
    Pullback,
    Run,
    Select,
    Sequential,
    Solver,
    Trust,
    guard,
)
from mdm import (
    DDIM,
    Ancestral,
    ChainSampler,
    Denoiser,
    Level,
    Result,
    Schedule,
    Step,
    Transition,
)
from namm import IdentityMirror
from problems import (
    Affine,
    Spawned,
    gaussian,
    make_trainer,
    processes,
    record,
    recorded,
    tiny_data,
    tiny_denoiser,
    tiny_mirror,
)

KEYS = {
    *("task", "method", "protocol", "metric", "value", "ci95"),
    *("n", "seed", "calls", "vjps", "flops", "seconds"),
}


class Late(Ancestral):
    """The last 20 steps of the published chain."""

    def times(self, schedule: Schedule) -> Tensor:
        return super().times(schedule)[-21:]


TRANSITIONS = {"clean": DDIM(12), "published": Late()}


def measured(n: int, std: float = 0.2) -> tuple[Select, Tensor]:
    """The first 3 of 8 frames of n fields."""

    operator = Select(-1, 3, 8, std)
    x = noise([("truth", i) for i in range(n)], (1, 8, 8))
    return operator, operator.measure(x, range(n))


def solve(solver: Solver, n: int = 3, **options: Any) -> Result:
    operator, m = measured(n)
    denoiser = options.pop("denoiser", None) or tiny_denoiser()
    operator = options.pop("operator", operator)
    return solver(denoiser, operator, m, (1, 8, 8), range(100, 100 + n))


# operators


SELECTIONS = [(-1, 3, 8), (-1, [0, 7], 8), (-2, [5, 1, 2], 6), (1, [0, 1, 3], 4)]


@pytest.mark.parametrize(("dim", "index", "size"), SELECTIONS)
def test_adjoint_and_pseudo_inverse(dim: int, index: Any, size: int) -> None:
    operator = Select(dim, index, size)
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    m = torch.randn_like(operator(x))

    torch.testing.assert_close((operator(x) * m).sum(), (x * operator.adjoint(m)).sum())
    assert operator.pinv(m).shape == x.shape
    assert torch.equal(operator(operator.pinv(m)), m)
    assert torch.equal(operator(operator.pinv(operator(x))), operator(x))
    back = operator.pinv(operator(x))
    assert torch.equal(operator.pinv(operator(back)), back)


def test_positions_are_kept_in_order() -> None:
    x = torch.arange(24.0).reshape(1, 1, 4, 6)

    assert torch.equal(Select(-1, 2, 6)(x), x[..., :2])
    assert torch.equal(Select(-2, [3, 0], 4)(x), x[:, :, [3, 0]])


@pytest.mark.parametrize("index", [[], 0, [0, 8], [-1], [1, 1], 9])
def test_positions_that_are_not_there_are_refused(index: Any) -> None:
    with pytest.raises(ValueError, match="distinct positions from 0 to 7"):
        Select(-1, index, 8)


def test_field_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"axis -1 has 8 positions.*\(2, 1, 8, 9\)"):
        Select(-1, 3, 8)(torch.zeros(2, 1, 8, 9))


def test_measurement_is_keyed_by_its_seed() -> None:
    operator = Select(-1, 4, 8, std=0.3)
    x = torch.zeros(64, 1, 8, 8)
    m = operator.measure(x, range(64))

    assert torch.equal(operator.measure(x[:3], [5, 0, 63]), m[[5, 0, 63]])
    # 2048 numbers: the std is known to 1.6 %
    assert float(m.std()) == pytest.approx(0.3, rel=0.08)
    exact = Select(-1, 4, 8, std=0.0)
    assert torch.equal(exact.measure(x + 1, range(64)), exact(x + 1))


def test_std_follows_the_operator_to_its_device_and_file() -> None:
    operator = Select(-1, 3, 8, 0.25)

    assert float(operator.state_dict()["std"]) == 0.25
    assert operator.double().std.dtype == torch.float64


def test_pullback_is_the_operator_after_the_inverse_map() -> None:
    operator, mirror = Select(-1, 3, 8, 0.25), Affine(2.0, 1.0, 0.5)
    y = torch.randn(2, 1, 8, 8)
    pulled = Pullback(operator, mirror)

    assert torch.equal(pulled(y), operator(0.5 * y))
    assert torch.equal(pulled.field(y), 0.5 * y)
    assert torch.equal(operator.field(y), y)
    assert pulled.std == operator.std
    twice = Pullback(pulled, mirror)
    assert torch.equal(twice(y), operator(0.25 * y)) and torch.equal(twice.field(y), 0.25 * y)


# DPS


def test_mirror_dps_with_the_identity_is_dps() -> None:
    for transition in TRANSITIONS.values():
        solver = DPS(0.05, constraint=Burgers(), transition=transition)
        operator, _ = measured(3)
        one = solve(solver)
        other = solve(solver, operator=Pullback(operator, IdentityMirror()))

        assert torch.equal(one.noisy, other.noisy) and torch.equal(one.y, other.y)


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_guidance_is_the_gradient_of_its_loss(constrained: bool, mirrored: bool) -> None:
    torch.manual_seed(2)
    denoiser, mirror = gaussian(), tiny_mirror().double()
    select = Select(-2, [0, 2, 3], 6, 0.2).double()
    operator = Pullback(select, mirror) if mirrored else select
    constraint = Burgers("crank_nicolson") if constrained else None
    solver = DPS(0.07, constraint, weight=30.0)
    t = torch.tensor(0.4, dtype=torch.float64)
    y_t = torch.randn(2, 1, 6, 4, dtype=torch.float64)
    m = torch.randn(2, 1, 3, 4, dtype=torch.float64)

    def loss(y_t: Tensor, k: int) -> Tensor:
        x = denoiser(y_t, t)
        x = mirror.inverse(x) if mirrored else x
        norm = ((m[k] - x[..., [0, 2, 3], :]) / 0.2).square().sum(dim=(1, 2, 3)).sqrt()
        return norm if constraint is None else norm + 30 * constraint(x)

    # a transition of which only the move of the guidance is left
    level = Level(0, t, 0 * t, Step(0.0, 0.0, 0.0), 1.0, 1.0, 1.0, 0.0, [0, 1])
    _, move = solver.step(Run(denoiser, operator, m), y_t.clone(), level)
    h = 1e-5 * torch.eye(24, dtype=torch.float64).reshape(24, 1, 6, 4)
    with torch.no_grad():
        for k in range(2):
            slope = (loss(y_t[k] + h, k) - loss(y_t[k] - h, k)) / 2e-5
            torch.testing.assert_close(move[k].flatten(), -0.07 * slope, rtol=1e-5, atol=1e-7)


def test_published_chain_is_its_pseudo_code() -> None:
    denoiser, operator = gaussian(mean=0.0), Select(-1, 2, 4, 0.2).double()
    m = torch.randn(2, 1, 3, 2, dtype=torch.float64)
    found = DPS(0.05, transition=Ancestral())(denoiser, operator, m, (1, 3, 4), [7, 8])

    b = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    a, ab = 1 - b, torch.cumprod(1 - b, dim=0)
    x = noise([(7, "start"), (8, "start")], (1, 3, 4), m) * float(
        denoiser.schedule(ab[0] * 0 + 1)[1]
    )
    for k, tau in enumerate(torch.linspace(1, 1e-3, 1000, dtype=torch.float64)):
        i = int(torch.floor(999 * tau))
        alpha = torch.exp(-(20 - 0.1) * tau**2 / 4 - 0.1 * tau / 2)
        s = (1 - alpha**2).sqrt()
        x.requires_grad_()
        # the score of the marginal, through which Tweedie's formula gives the denoised field
        precision = torch.linalg.inv(alpha**2 * denoiser.cov + s**2 * torch.eye(4).double())
        x0 = (x - s**2 * x @ precision) / alpha
        norm = ((m - x0[..., :2]) / 0.2).flatten(1).norm(dim=1)
        (gradient,) = torch.autograd.grad(norm.sum(), x)
        before = ab[i - 1] if i else torch.ones(())
        mean = b[i] * before.sqrt() / (1 - ab[i]) * x0
        mean = mean + (1 - before) * a[i].sqrt() / (1 - ab[i]) * x
        variance = b[i] if i else b[1] * (1 - ab[0]) / (1 - ab[1])
        mean = (mean - 0.05 * gradient).detach()
        x = mean + variance.sqrt() * noise([(7, k), (8, k)], (1, 3, 4), m)

    torch.testing.assert_close(found.y, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.noisy, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("protocol", TRANSITIONS)
def test_no_guidance_is_the_prior(protocol: str) -> None:
    transition = TRANSITIONS[protocol]
    guided = solve(DPS(0.0, constraint=Burgers(), transition=transition))
    free = ChainSampler(transition)(tiny_denoiser(), (1, 8, 8), range(100, 103))

    assert torch.equal(guided.noisy, free.noisy) and torch.equal(guided.y, free.y)


class Anything(Constraint):
    """Satisfied by all fields."""

    def forward(self, x: Tensor) -> Tensor:
        return (0 * x).flatten(1).sum(dim=1)


def test_constraint_that_asks_for_nothing_changes_nothing() -> None:
    plain, guided = (solve(DPS(0.05, c, transition=DDIM(12))) for c in (None, Anything()))
    moved = solve(DPS(0.05, Burgers(), transition=DDIM(12)))

    assert torch.equal(plain.noisy, guided.noisy)
    assert not torch.equal(plain.y, moved.y)


def test_guidance_brings_the_answer_to_the_measurement() -> None:
    operator = Select(-1, 2, 4, 0.1)
    x = 0.5 + 0.6 * noise([(i,) for i in range(32)], (1, 8, 4)).double()
    m = operator.measure(x, range(32))
    denoiser = gaussian()

    def misfit(zeta: float) -> float:
        solver = DPS(zeta, transition=DDIM(60))
        y = solver(denoiser, operator, m, (1, 8, 4), range(32)).y
        return float((operator(y) - m).square().mean().sqrt())

    # two independent fields differ by sqrt(2) times their std of 0.6
    assert misfit(0.0) == pytest.approx(0.6 * math.sqrt(2), rel=0.1)
    assert misfit(0.05) < 0.2


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
    class Pull(Sequential):
        """Moves every mean by a constant."""

        def step(self, run: Run, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
            return level.land(level.mean(run.denoiser(y_t, level.t.to(y_t)), y_t) + 0.5)

        def cost(self, denoiser: Denoiser) -> Cost:
            return Cost(1, 0)

    one = solve(Pull(DDIM(1)))
    free = ChainSampler(DDIM(1))(tiny_denoiser(), (1, 8, 8), range(100, 103))

    torch.testing.assert_close(one.noisy, free.noisy + 0.5)


# the stage


class Notebook(Solver):
    """A solver that leaves its measurements and its samples in a folder, by their seeds."""

    def __init__(self, solver: Solver, folder: Path) -> None:
        super().__init__()
        self.solver, self.folder = solver, folder
        for name in ("m", "y"):
            (folder / name).mkdir(parents=True)

    def prepare(self, denoiser: Denoiser, shape: Sequence[int]) -> None:
        self.solver.prepare(denoiser, shape)

    def __call__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
    ) -> Result:
        result = self.solver(denoiser, operator, m, shape, seeds)
        record(self.folder / "m", seeds, Result(m, m))
        record(self.folder / "y", seeds, result)
        return result

    def cost(self, denoiser: Denoiser) -> Cost:
        return self.solver.cost(denoiser)


def evaluate(
    folder: Path, solver: Solver | None = None, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, Tensor], dict[str, Tensor]]:
    """The rows of the results, and the measurements and the samples by their seeds."""

    notebook = Notebook(solver or DPS(0.05, transition=DDIM(6)), folder / "notes")
    trainer = make_trainer(folder, **options.pop("trainer", {}))
    data = options.pop("data", None) or tiny_data(
        folder.parent, batch_size=options.pop("batch_size", 4)
    )
    options = {"fields": 5, "samples": 2, "seed": 3, **options}
    operator = Select(-1, 3, 8, options.pop("std", 0.2))
    stage = Inverse(tiny_denoiser(), Burgers(), operator, notebook, **options)
    trainer.test(stage, data, verbose=False)
    found = json.loads((folder / "results.json").read_text())["rows"]
    return found, recorded(folder / "notes" / "m"), recorded(folder / "notes" / "y")


def pick(found: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in found if all(row[k] == v for k, v in wanted.items())]


def truth(folder: Path) -> Tensor:
    data = tiny_data(folder)
    data.setup("test")
    return torch.stack([data.fields["test"][i]["x"] for i in range(6)])


def gather(samples: dict[str, Tensor], end: int, fields: int = 5, n: int = 2) -> Tensor:
    seeds = [derive_seed(3, "solve", i, k) for i in range(fields) for k in range(n)]
    assert set(samples) == {str(seed) for seed in seeds}
    return torch.stack([samples[str(seed)][end] for seed in seeds])


def test_stage_scores_its_answers(tmp_path: Path) -> None:
    found, measurements, samples = evaluate(
        tmp_path / "run", mirror=Affine(2.0, 1.0, 0.5), method="mirror-DPS", task="first frames"
    )
    x, m = truth(tmp_path)[:5], gather(measurements, 0)
    x_hat = 0.5 * gather(samples, 1)
    seeds = [derive_seed(3, "field", i) for i in range(5)]
    expected = Select(-1, 3, 8, 0.2).measure(x, seeds).repeat_interleave(2, dim=0)
    assert torch.equal(m, expected)

    assert all(set(row) == KEYS for row in found)
    own = pick(found, method="mirror-DPS")
    guards = ["cycle", "mmd", "spectrum", "spread"]
    metrics = sorted(["chi2", "distance", "rejected", "relative_error", *guards])
    assert sorted(row["metric"] for row in own) == metrics
    assert {(row["protocol"], row["task"], row["seed"]) for row in found} == {
        ("clean", "first frames", 3)
    }
    x = x.repeat_interleave(2, dim=0)
    for metric, values in {
        "distance": Burgers()(x_hat),
        "chi2": ((m - x_hat[..., :3]) / 0.2).square().mean(dim=(1, 2, 3)),
        "relative_error": (x_hat - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1),
    }.items():
        (row,) = pick(own, metric=metric)
        half = 1.96 * float(values.std()) / math.sqrt(10)
        assert row["value"] == pytest.approx(float(values.mean()), rel=1e-4)
        assert row["ci95"] == pytest.approx([row["value"] - half, row["value"] + half], rel=1e-3)
        assert (row["n"], row["calls"], row["vjps"]) == (10, 6, 6)
        assert row["flops"] > 0 and row["seconds"] > 0
    row, floor = pick(found, method="data")
    assert row["metric"] == "distance" and row["n"] == 6 and row["calls"] == 0
    # 24 numbers are measured, the first of 8 frames is free
    assert (floor["metric"], floor["value"]) == ("chi2_floor", pytest.approx(16 / 24))


def test_measurement_without_noise_has_no_chi2(tmp_path: Path) -> None:
    found, _, _ = evaluate(tmp_path / "run", std=0.0)

    assert not [row for row in found if row["metric"].startswith("chi2")]
    assert all(math.isfinite(row["value"]) for row in found)


def test_test_without_a_measured_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="before a field was measured.*limit_test_batches"):
        limit = {"limit_test_batches": 1}
        evaluate(tmp_path / "run", first=4, fields=2, batch_size=2, trainer=limit)


def test_few_test_fields_are_refused_before_any_is_measured(tmp_path: Path) -> None:
    data = tiny_data(tmp_path, sizes={"train": 4, "val": 4, "test": 2})
    with pytest.raises(InputError, match="at least 3 test fields, of which there are 2"):
        evaluate(tmp_path / "run", data=data)


def test_estimate_of_a_bound_is_no_cost_of_a_sample(tmp_path: Path) -> None:
    flops = []
    for name, bound in (("a", None), ("b", 1.0)):
        solver = Trust(ConstantBudget(2), quantile=bound, transition=DDIM(3))
        found, _, _ = evaluate(tmp_path / name, solver)
        flops.append(pick(found, metric="chi2")[0]["flops"])
    # one that stops a sample spares it something
    assert 0 < flops[1] <= flops[0]


def test_what_conjugate_gradients_leave_is_reported(tmp_path: Path) -> None:
    """One iteration is enough where all directions of A f are alike, and not elsewhere."""

    solver = CPiGDM(iterations=1, transition=DDIM(3))
    left = []
    for name, mirror in (("a", Affine(2.0, 1.0, 0.5)), ("b", tiny_mirror())):
        found, _, _ = evaluate(tmp_path / name, solver, mirror=mirror)
        (row,) = pick(found, metric="unsolved")
        left.append(row["value"])
    assert left[0] < 1e-5 < 1e-3 < left[1] < 1


def test_answers_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    _, m, one = evaluate(tmp_path / "a", batch_size=6)
    _, same, other = evaluate(tmp_path / "b", batch_size=1)

    assert one.keys() == other.keys()
    for seed in one:
        assert torch.equal(m[seed], same[seed])
        torch.testing.assert_close(one[seed], other[seed], rtol=0, atol=1e-5)


def test_solvers_see_the_same_measurements(tmp_path: Path) -> None:
    _, one, a = evaluate(tmp_path / "a")
    _, other, b = evaluate(tmp_path / "b", DPS(0.01, Burgers(), transition=DDIM(3)), method="CG")
    _, third, _ = evaluate(tmp_path / "c", seed=4)

    assert all(torch.equal(one[seed], other[seed]) for seed in one)
    assert not any(torch.equal(a[seed], b[seed]) for seed in a)
    assert not set(one) & set(third)


def test_mirror_dps_with_the_identity_is_dps_in_the_results(tmp_path: Path) -> None:
    a, _, one = evaluate(tmp_path / "a")
    b, _, other = evaluate(tmp_path / "b", mirror=IdentityMirror())

    assert all(torch.equal(one[seed], other[seed]) for seed in one)
    assert [row["value"] for row in a] == [row["value"] for row in b]


def test_published_protocol_scores_both_ends_of_one_run(tmp_path: Path) -> None:
    found, m, samples = evaluate(tmp_path / "run", DPS(transition=Late()), fields=6)
    m = gather(m, 0, fields=6)
    for protocol, end in (("published", 0), ("clean", 1)):
        x_hat = gather(samples, end, fields=6)
        own = pick(found, method="dps", protocol=protocol)
        assert len(own) == 8
        (row,) = pick(own, metric="distance")
        assert row["value"] == pytest.approx(float(Burgers()(x_hat).mean()), rel=1e-4)
        (row,) = pick(own, metric="chi2")
        chi2 = ((m - x_hat[..., :3]) / 0.2).square().mean()
        assert row["value"] == pytest.approx(float(chi2), rel=1e-4)
        assert (row["n"], row["calls"], row["vjps"]) == (12, 20, 20)


def test_fields_beyond_those_asked_for_are_held_out_only(tmp_path: Path) -> None:
    found, m, _ = evaluate(tmp_path / "run", fields=1, samples=3)

    assert len(m) == 3
    (row,) = pick(found, method="dps", metric="chi2")
    assert row["n"] == 3
    (row,) = pick(found, method="data", metric="distance")
    assert row["n"] == 6


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_find_the_answers_of_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {"mirror": Affine(2.0, 1.0, 0.5), "batch_size": 2}
    two = {"devices": 2, "strategy": Spawned()}
    found, m, one = evaluate(tmp_path / "one", DPS(transition=Late()), **options)
    with processes():
        both, same, other = evaluate(
            tmp_path / "two", DPS(transition=Late()), trainer=two, **options
        )

    assert one.keys() == other.keys() and len(one) == 10
    for seed in one:
        assert torch.equal(m[seed], same[seed])
        torch.testing.assert_close(one[seed], other[seed], rtol=0, atol=1e-5)
    assert len(found) == len(both)
    for a, b in zip(found, both, strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-3, abs=1e-6)
        for key in ("metric", "protocol", "n", "calls", "vjps"):
            assert a[key] == b[key]


def test_more_processes_than_fields_are_refused() -> None:
    class Two:
        world_size = 2

    trainer = Two()

    def setup(fields: int) -> None:
        solver = DPS(transition=DDIM(2))
        stage = Inverse(tiny_denoiser(), Burgers(), Select(-1, 3, 8), solver, fields=fields)
        stage.trainer = trainer  # type: ignore[assignment]
        stage.setup("test")

    setup(2)
    with pytest.raises(InputError, match="2 processes share the fields measured, .* only 1"):
        setup(1)
