"""The benchmark on the spiral: it runs on any prior, and its variants differ where they should."""

import json
import math
from pathlib import Path

import pytest
import torch

import benchmarks.spiral.__main__ as program
from benchmarks.spiral import measure as spiral
from benchmarks.spiral import tasks as spiral_tasks
from constraints import Spiral
from inverse import ConstantBudget, StochasticLinearBudget, Trust
from mdm import DDIM, MixtureDenoiser, VPSchedule


def points() -> MixtureDenoiser:
    means = Spiral().curve(torch.linspace(0.1, 1, 6))
    return MixtureDenoiser(torch.ones(6), means, 0.01 * torch.eye(2).repeat(6, 1, 1))


def test_spiral_runs_on_any_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cubic", "curve"):
        monkeypatch.delitem(spiral.TASKS, name)
    plan = spiral.Plan(steps=6, n=12, seeds=2, settings=2, tune=6, ablation=6)
    results, shown = spiral.benchmark(points(), plan, Spiral())
    program.write(results, shown, Spiral(), tmp_path)

    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    table = {(r["protocol"], r["task"], r["method"], r["metric"]): r for r in rows}
    assert len(table) == len(rows) and all(math.isfinite(r["value"]) for r in rows)
    protocols = plan.protocols()
    assert list(protocols) == ["6 steps", "6 calls", "26 calls"]
    for task in spiral.TASKS:
        for name in spiral.METHODS:
            last = table["26 calls", task, name, "score"]
            assert last["calls"] == 26 and last["n"] == 24
            assert table["6 calls", task, name, "score"]["calls"] <= 6
        assert table["bound", task, "none", "needed_calls"]["value"] == 26
        assert table["bound", task, "quantile 0.25", "needed_calls"]["value"] < 26
    text = (tmp_path / "results.md").read_text()
    # a row of each method in three protocols, of the two sides of the ablation, and of the levels
    assert text.count("\n| line | ") == 3 * 5 + 5 + 7
    assert (tmp_path / "spiral.png").stat().st_size > 1000


def test_inverted_rounding_goes_the_other_way() -> None:
    levels = Trust(transition=DDIM(41)).levels(points())
    line = spiral_tasks.line_of(0, 8, levels)
    schedule = VPSchedule()
    pairs = [
        (spiral_tasks.Inverted(0, 8, seed), StochasticLinearBudget(0, 8, seed))
        for seed in range(200)
    ]
    turned, right = (
        torch.tensor([pair[i].steps(levels, schedule) for pair in pairs]).double().mean(dim=0)
        for i in range(2)
    )
    for k, v in line:
        # 200 draws of a coin: 5 standard deviations are at most 0.18
        floor = math.floor(v)
        assert float(right[k]) == pytest.approx(v, abs=0.18)
        assert float(turned[k]) == pytest.approx(2 * floor + 1 - v, abs=0.18)
    assert spiral.expected("constant 4", levels) == {"mean": 4, "off": 0, "without": 0}
    facts = spiral.expected("0 to 8, inverted", levels)
    assert facts["mean"] == pytest.approx(float(turned[:-1].mean()), abs=0.05)


def test_spiral_says_how_its_prior_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.main(["--checkpoint", str(tmp_path / "none.ckpt"), "--out", str(tmp_path)])
    assert "namm run configs/spiral --to diffusion" in capsys.readouterr().err


def test_calls_of_a_sample_by_itself() -> None:
    # a bound that is never kept costs each level the call that finds it out
    bench = spiral.Bench(points(), Spiral())
    for bound, wanted in ((1e-9, 5 + 4), (1e9, 5 + 4 * 3)):
        solver = Trust(ConstantBudget(3), bound=bound, transition=DDIM(5))
        _, cost, report = bench.solve("line", solver, [1, 2, 3])
        assert report["needed"] == [wanted] * 3 and cost["calls"] == wanted
