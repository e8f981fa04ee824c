"""Properties of all solvers: samples alone, costs, processes and refusals."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from constraints import Burgers, InputError, noise
from inverse import (
    DPS,
    DSG,
    LGDMC,
    Bound,
    ConstantBudget,
    Cost,
    CPiGDM,
    Downsample,
    Inverse,
    LinearBudget,
    Operator,
    PiGDM,
    Pullback,
    Residual,
    Select,
    Sequential,
    Solver,
    StochasticLinearBudget,
    Trust,
)
from mdm import DDIM, Ancestral, CosineSchedule, Denoiser, FlowSchedule, Result, VPSchedule
from tests.inverse.grids import SEEDS, SHAPE, STD, Anything, mixture, projection
from tests.problems import (
    Affine,
    Spawned,
    make_trainer,
    processes,
    record,
    recorded,
    tiny_data,
    tiny_denoiser,
    tiny_mirror,
)

# all solvers
GRID = DDIM(6)


FLAT = DDIM(6, 0.0)


SOLVERS: dict[str, Sequential] = {
    "DPS": DPS(0.05, Burgers(), transition=GRID),
    "DPS squared": DPS(0.002, power=2, whiten=False, transition=GRID),
    "DSG": DSG(0.2, 2, Burgers(), transition=GRID),
    "LGDMC": LGDMC(3, 0.05, transition=GRID),
    "LGDMC published": LGDMC(2, 0.05, True, "published", 2, Burgers(), transition=GRID),
    "Trust": Trust(StochasticLinearBudget(1, 3), 0.1, transition=GRID),
    "Trust bounded": Trust(
        ConstantBudget(2),
        0.1,
        Bound(0.9, 8),
        constraint=Burgers(),
        transition=GRID,
    ),
    "PiGDM": PiGDM(0.5, transition=FLAT),
    "PiGDM integrated": PiGDM(2.0, "conjugate", integrate=True, transition=FLAT),
    "PiGDM from the middle": PiGDM(1.0, transition=DDIM(6, 0.5, 0.5)),
    "CPiGDM": CPiGDM(2.0, transition=FLAT),
    "CPiGDM lambda": CPiGDM(5.0, lam=-0.2, transition=DDIM(6, 0.0, 0.4)),
}


def measured(n: int, mirrored: bool) -> tuple[Operator, Tensor]:
    operator = Select(-1, 3, 8, 0.2)
    x = noise([("truth", i) for i in range(n)], (1, 8, 8))
    m = operator.measure(x, range(n))
    torch.manual_seed(0)
    return Pullback(operator, tiny_mirror().eval()) if mirrored else operator, m


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_sample_is_the_same_alone_and_in_a_batch(name: str, mirrored: bool) -> None:
    solver, denoiser = SOLVERS[name], tiny_denoiser()
    operator, m = measured(16, mirrored)
    together = solver(denoiser, operator, m, (1, 8, 8), range(16))
    again = solver(denoiser, operator, m, (1, 8, 8), range(16))

    assert together.noisy.shape == (16, 1, 8, 8) and torch.isfinite(together.noisy).all()
    assert torch.equal(together.noisy, again.noisy) and torch.equal(together.y, again.y)
    for i in (0, 7, 15):
        alone = solver(denoiser, operator, m[i : i + 1], (1, 8, 8), [i])
        torch.testing.assert_close(alone.noisy[0], together.noisy[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.y[0], together.y[i], rtol=0, atol=1e-5)
    other = solver(denoiser, operator, m, (1, 8, 8), range(1, 17))
    assert not torch.equal(other.noisy, together.noisy)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_solver_finds_its_gradients_in_inference_mode(name: str, mirrored: bool) -> None:
    solver, denoiser = SOLVERS[name], tiny_denoiser()
    operator, m = measured(3, mirrored)
    expected = solver(denoiser, operator, m, (1, 8, 8), range(3))
    with torch.inference_mode():
        m = measured(3, mirrored)[1]  # where a data loader makes it
        found = solver(denoiser, operator, m, (1, 8, 8), range(3)).y.clone()

    assert torch.equal(found, expected.y)
    assert all(weight.grad is None for weight in denoiser.parameters())


COSTS: list[tuple[Sequential, Cost]] = [
    (DPS(transition=DDIM(7)), Cost(7, 7)),
    (DPS(constraint=Anything(), transition=Ancestral()), Cost(1000, 1000)),
    # the last step has no noise to turn
    (DSG(transition=DDIM(7)), Cost(7, 6)),
    (DSG(interval=3, transition=DDIM(7)), Cost(7, 2)),
    (DSG(transition=DDIM(7, 0.0)), Cost(7, 0)),
    (DSG(interval=10, transition=Ancestral()), Cost(1000, 100)),
    (LGDMC(4, transition=DDIM(7)), Cost(7, 7)),
    (Trust(transition=DDIM(7)), Cost(7 + 24, 24)),
    (Trust(ConstantBudget(0), transition=DDIM(7)), Cost(7, 0)),
    (Trust(ConstantBudget(2), bound=Bound(1.0), transition=DDIM(7)), Cost(7 + 12 + 14, 12)),
    (Trust(LinearBudget(1, 4), transition=DDIM(200)), Cost(696, 496)),
    (Trust(LinearBudget(1, 8), transition=DDIM(200)), Cost(1092, 892)),
    (PiGDM(transition=DDIM(7, 0.0)), Cost(7, 7)),
    (PiGDM(transition=DDIM(7, 0.3, 0.6)), Cost(7, 7)),
    (PiGDM(0.01, transition=Ancestral()), Cost(1000, 1000)),
    (CPiGDM(transition=DDIM(7, 0.0)), Cost(7, 7)),
    (CPiGDM(lam=0.3, transition=DDIM(7, 0.0, 0.4)), Cost(7, 7)),
    (PiGDM(), Cost(20, 20)),
    (CPiGDM(), Cost(20, 20)),
]


@pytest.mark.parametrize(("solver", "cost"), COSTS)
def test_cost_is_known_before_and_counted_after(solver: Sequential, cost: Cost) -> None:
    operator, _, m = projection()
    denoiser = mixture()
    prepared = solver.prepare(denoiser, SHAPE)
    if isinstance(prepared, Trust) and prepared is not solver:
        assert denoiser.calls == 14
        prepared.bound = [math.inf] * 7  # a bound that stops nobody
    prepared(denoiser, operator, m, SHAPE, SEEDS)

    assert Cost(denoiser.calls, denoiser.vjps) == solver.cost(denoiser) == cost


class Parade(Solver):
    """Several solvers one after the other, each of which leaves its samples in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.solvers = torch.nn.ModuleDict(SOLVERS)
        for name in SOLVERS:
            (folder / name).mkdir(parents=True)

    def forward(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
        given: Any = None,
    ) -> Result:
        for name, solver in self.solvers.items():
            result = solver(denoiser, operator, m, shape, seeds)
            record(self.folder / name, seeds, result)
        return result

    def cost(self, denoiser: Denoiser) -> Cost:
        return Cost(0, 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mirrored", [False, True])
def test_two_processes_find_the_answers_of_one(tmp_path: Path, mirrored: bool) -> None:
    def answers(name: str, **options: Any) -> dict[str, dict[str, Tensor]]:
        folder = tmp_path / name
        mirror = Affine(2.0, 1.0, 0.5) if mirrored else None
        parade, data = Parade(folder / "notes"), tiny_data(tmp_path, batch_size=2)
        operator = Select(-1, 3, 8, 0.2)
        stage = Inverse(
            tiny_denoiser(), Burgers(), operator, parade, mirror, fields=5, samples=2, seed=3
        )
        make_trainer(folder, **options).test(stage, data, verbose=False)
        return {name: recorded(folder / "notes" / name) for name in SOLVERS}

    one = answers("one")
    with processes():
        two = answers("two", devices=2, strategy=Spawned())
    for name in SOLVERS:
        assert one[name].keys() == two[name].keys() and len(one[name]) == 10
        for seed, sample in one[name].items():
            torch.testing.assert_close(two[name][seed], sample, rtol=0, atol=1e-5)


# refusals
MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: DPS(power=3), r"power.*\b3\b"),
    (lambda: DPS(zeta=float("nan")), r"zeta.*nan"),
    (lambda: DPS(zeta=-1.0), r"zeta.*-1\.0"),
    (lambda: DPS(weight=float("inf")), r"weight.*inf"),
    (lambda: LGDMC(step_size=-0.1), r"step_size.*-0\.1"),
    (lambda: Trust(step_size=float("inf")), r"step_size.*inf"),
    (lambda: PiGDM(weight=-1.0), r"PiGDM.*weight.*-1\.0"),
    (lambda: CPiGDM(weight=-1.0), r"CPiGDM.*weight.*-1\.0"),
    (lambda: CPiGDM(lam=float("nan")), r"lam.*nan"),
    (lambda: LGDMC(samples=0), "samples?.*0"),
    (lambda: LGDMC(power=0), r"power.*\b0\b"),
    (lambda: DSG(gamma=1.5), r"gamma.*1\.5"),
    (lambda: DSG(gamma=-0.1), r"gamma.*-0\.1"),
    (lambda: DSG(interval=0), r"interval.*\b0\b"),
    (lambda: Trust(bound=Bound(0.9), transition=DDIM(start=0.4)), r"0\.4"),
    (lambda: Bound(0.0), r"quantile.*\b0"),
    (lambda: CosineSchedule(1.0), r"CosineSchedule.*1\.0"),
    (lambda: Bound(1.5), r"quantile.*1\.5"),
]


@pytest.mark.parametrize(("build", "words"), MISTAKES)
def test_options_of_no_meaning_are_refused(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_published_chain_is_that_of_its_schedule() -> None:
    operator, _, m = projection()
    for schedule in (FlowSchedule(), CosineSchedule(), VPSchedule(0.1, 5.0)):
        for solver in (DPS(transition=Ancestral()), PiGDM(transition=Ancestral())):
            with pytest.raises(InputError, match=r"VPSchedule"):
                solver(mixture(schedule), operator, m, SHAPE, SEEDS)


@pytest.mark.parametrize("kind", [DPS, DSG, LGDMC, Trust])
def test_start_from_a_guess_needs_a_pseudo_inverse(kind: Any) -> None:
    solver = kind(transition=DDIM(4, start=0.5))
    m = torch.zeros(4, 1).double()
    with pytest.raises(InputError, match=r"Residual.*start"):
        solver(mixture(), Residual(Anything()), m, SHAPE, SEEDS)


@pytest.mark.parametrize("start", [0.5, 1.0])
@pytest.mark.parametrize("kind", [DPS, DSG, LGDMC, Trust, PiGDM, CPiGDM])
def test_precision_is_that_of_the_denoiser(kind: Any, start: float) -> None:
    operator, _, m = projection()
    solver = kind(transition=DDIM(4, start=start))
    y = solver(mixture().float(), operator.float(), m, SHAPE, SEEDS).y
    assert m.dtype == torch.float64 and y.dtype == torch.float32
    assert y.isfinite().all()


@pytest.mark.parametrize("kind", [DPS, DSG, LGDMC, Trust, PiGDM, CPiGDM])
def test_start_from_a_guess_is_the_pseudo_inverse_with_noise(kind: Any) -> None:
    """With one step and no guidance, the answer is the denoised start."""

    operator = Downsample(4, [-1], STD).double()
    m = operator(mixture().sample(range(4)).reshape(-1, *SHAPE))
    solver = kind(transition=DDIM(1, 0.0, 0.5))
    for name in ("zeta", "step_size", "weight"):
        if hasattr(solver, name):
            setattr(solver, name, 0.0)
    t = torch.tensor(0.5).double()
    alpha, sigma = VPSchedule()(t)
    xi = noise([(seed, "start") for seed in SEEDS], SHAPE, m)
    expected = mixture()(alpha * operator.pinv(m) + sigma * xi, t)
    torch.testing.assert_close(
        solver(mixture(), operator, m, SHAPE, SEEDS).y, expected, rtol=0, atol=1e-12
    )
