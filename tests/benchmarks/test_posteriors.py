"""The benchmark against known posteriors: it runs, and it is fair."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks.common.solving import by_batch
from benchmarks.posteriors.__main__ import main
from benchmarks.posteriors.measure import QUICK
from benchmarks.posteriors.methods import METHODS, alike
from benchmarks.posteriors.problems import TASKS, Outside, Remembered, prior, problem, sliced_w2
from mdm import VPSchedule


def test_quick_run(tmp_path: Path) -> None:
    main(["--quick", "--out", str(tmp_path)])

    results = json.loads((tmp_path / "results.json").read_text())
    rows = {(r["task"], r["method"], r["protocol"], r["metric"]): r for r in results["rows"]}
    for name, method in METHODS.items():
        for calls in QUICK.budgets:
            for task in (t for t, s in TASKS.items() if method.solves(t == "quantised", s > 0)):
                row = rows[f"mixture-2-{task}", name, f"{calls} calls", "sw2"]
                assert math.isfinite(row["value"]) and row["sd"] >= 0
                assert row["calls"] <= calls
    floor = rows["mixture-2-quantised", "exact samples", "floor", "violation"]
    assert floor["value"] == 0  # exact samples round to the measurement
    text = (tmp_path / "results.md").read_text()
    assert text.count("\n| mixture-2-noisy | ") == 2 + 2 * len(QUICK.budgets)
    assert (tmp_path / "quality.png").stat().st_size > 1000


@pytest.mark.parametrize("task", TASKS)
def test_same_effort_for_every_solver(task: str) -> None:
    counts = {
        len(m.settings(10, task != "disc")) for name, m in METHODS.items() if name != "unguided"
    }
    assert counts == {10}
    for method in METHODS.values():
        if method.knob:
            settings = method.settings(10, task != "disc")
            kept = [settings[i] for i in alike(settings, 0, method.knob)]
            values = {tuple(v for k, v in s.items() if k != method.knob) for s in kept}
            assert settings[0] in kept and len(values) == 1


def test_sliced_w2_of_a_shift() -> None:
    y = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    assert sliced_w2(y, y.repeat(4, 1)) < 1e-6
    # |v . c| along each direction, whose mean square is |c|² / 3 over all of them
    shift = torch.tensor([3.0, 0.0, 0.0])
    assert sliced_w2(y, y + shift) == pytest.approx(math.sqrt(3), rel=0.1)
    assert sliced_w2(y / 0, y) == math.inf


def test_noise_of_a_batch_repeats_with_its_seeds() -> None:
    keys = [(seed, 3) for seed in (5, 6, 7)] * 2
    z = by_batch(keys, (1, 4), torch.zeros(()))
    assert z.shape == (6, 1, 4)
    assert torch.equal(z[:3], z[3:]) and not torch.equal(z[0], z[1])
    assert not torch.equal(z, by_batch([(seed, 4) for seed, _ in keys], (1, 4), z))


def test_remembered_schedule_is_the_same() -> None:
    schedule, other = Remembered(VPSchedule()), VPSchedule()
    t = torch.tensor([0.3, 1.0], dtype=torch.float64)
    for times in (t, t, t[0].expand(4), t.float()[1].expand(4), t.float()):
        for ours, theirs in zip(schedule(times), other(times), strict=True):
            assert torch.equal(ours, theirs)
    for _ in range(2):
        for ours, theirs in zip(schedule.slopes(t), other.slopes(t), strict=True):
            assert torch.equal(ours, theirs)


def test_references_are_of_the_posterior() -> None:
    disc = problem("mixture", 2, "disc", "test", 64)
    assert not disc.operator(disc.reference[:, None]).any()
    rounded = problem("mixture", 2, "quantised", "test", 64)
    assert (rounded.operator(rounded.reference[:, None]) == rounded.m).all()
    exact = problem("mixture", 16, "exact", "test", 64)
    residual = exact.operator(exact.reference[:, None]) - exact.m
    # the variance along the measurement is 0 but for the rounding of float32, and this its root
    assert residual.abs().max() < 1e-3

    depth = Outside(1.0).residual(torch.tensor([[[0.5, 0.25, 9.0]], [[2.0, 0.0, 0.0]]]))
    assert depth.flatten().tolist() == [0.75, 0.0]


def test_half_of_the_prior_is_feasible() -> None:
    disc = problem("gaussian", 16, "disc", "test", 64)
    y = prior("gaussian", 16).sample(range(2000))
    # 0.5 ± 4 standard deviations of the share, and of the median that set the radius
    assert float((disc.operator(y[:, None]) == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
