"""The test stage of inverse problems: its scores, its protocol and its processes."""

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from constraints import Burgers, Constraint, Given, InputError, derive_seed
from inverse import (
    DPS,
    Bound,
    ConstantBudget,
    Cost,
    CPiGDM,
    Inverse,
    Operator,
    Select,
    Solver,
    Trust,
)
from mdm import DDIM, Denoiser, Result
from namm import IdentityMirror
from namm.cli.report import report
from tests.inverse.answers import Late
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

KEYS = {
    *("task", "method", "protocol", "metric", "value", "ci95"),
    *("n", "seed", "calls", "vjps", "flops", "seconds"),
}


# the stage
class Notebook(Solver):
    """A solver that leaves its measurements and its samples in a folder, by their seeds."""

    def __init__(self, solver: Solver, folder: Path) -> None:
        super().__init__()
        self.solver, self.folder = solver, folder
        for name in ("m", "y"):
            (folder / name).mkdir(parents=True)

    def prepare(self, denoiser: Denoiser, shape: Sequence[int]) -> Solver:
        self.solver = self.solver.prepare(denoiser, shape)
        return self

    def forward(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
        given: Any = None,
    ) -> Result:
        result = self.solver(denoiser, operator, m, shape, seeds, given)
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


class Steep(Constraint):
    """A rule whose gradient is not finite, so that no guidance by it is."""

    def residual(self, x: Tensor) -> Tensor:
        return (x * 1e30).exp().flatten(1)


def test_answers_without_guidance_are_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="DPS left its guidance out .* levels of 10 samples"):
        evaluate(tmp_path / "run", DPS(0.05, Steep(), transition=DDIM(6)), method="DPS")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "10 samples" in results["notes"][0]
    assert pick(results["rows"], metric="rejected")[0]["value"] == 6
    evaluate(tmp_path / "other", DPS(0.05, transition=DDIM(6)))
    assert json.loads((tmp_path / "other" / "results.json").read_text())["notes"] == []


class Blank(Solver):
    """A solver whose answers are no numbers."""

    def forward(self, denoiser: Denoiser, *args: Any, **kwargs: Any) -> Result:
        m, shape = args[1], args[2]
        return Result(y := torch.full((len(m), *shape), torch.nan), y)

    def cost(self, denoiser: Denoiser) -> Cost:
        return Cost(0, 0)


def test_results_give_the_reason_of_a_value_that_is_no_number(tmp_path: Path) -> None:
    found, _, _ = evaluate(tmp_path / "run", Blank())
    assert "NaN" not in (tmp_path / "run" / "results.json").read_text()
    for metric in ("distance", "chi2", "relative_error", "spread"):
        (row,) = pick(found, method="dps", metric=metric)
        assert row["value"] is None and row["ci95"] is None and "nan" in row["reason"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty axis
        report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "dps, distance: the mean is nan" in text and "| none |" in text


def test_method_of_the_row_of_the_data_is_refused() -> None:
    with pytest.raises(InputError, match="'data'"):
        Inverse(tiny_denoiser(), Burgers(), Select(-1, 3, 8), DPS(), method="data")


class Centre(Constraint):
    """Fields whose mean is the centre of their own sample; 0 without data."""

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        centre = 0 if given is None else given["centre"][:, None]
        return x.flatten(1).mean(dim=1, keepdim=True) - centre


def test_stage_passes_the_data_of_each_sample(tmp_path: Path) -> None:
    x = torch.randn(4, 1, 8, 8)
    centre = x.flatten(1).mean(dim=1)
    rows = [{"x": x[i], "index": i, "given": {"centre": centre[i]}} for i in range(4)]
    solver = DPS(0.5, Centre(), transition=DDIM(4))
    stage = Inverse(tiny_denoiser(), Centre(), Select(-1, 3, 8), solver, fields=3, samples=2)
    make_trainer(tmp_path).test(stage, DataLoader(rows, batch_size=2), verbose=False)  # type: ignore[arg-type]
    found = json.loads((tmp_path / "results.json").read_text())["rows"]
    (data,) = pick(found, method="data", metric="distance")
    assert data["value"] < 1e-6


def test_measurement_without_noise_has_no_chi2(tmp_path: Path) -> None:
    found, _, _ = evaluate(tmp_path / "run", std=0.0)

    assert not [row for row in found if row["metric"].startswith("chi2")]
    assert all(math.isfinite(row["value"]) for row in found)


def test_test_without_a_measured_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit_test_batches"):
        limit = {"limit_test_batches": 1}
        evaluate(tmp_path / "run", first=4, fields=2, batch_size=2, trainer=limit)


def test_few_test_fields_are_refused_before_any_is_measured(tmp_path: Path) -> None:
    data = tiny_data(tmp_path, sizes={"train": 4, "val": 4, "test": 2})
    with pytest.raises(InputError, match=r"\b3\b.*\b2\b"):
        evaluate(tmp_path / "run", data=data)


def test_estimate_of_a_bound_is_no_cost_of_a_sample(tmp_path: Path) -> None:
    flops = []
    for name, bound in (("a", None), ("b", Bound(1.0))):
        solver = Trust(ConstantBudget(2), bound=bound, transition=DDIM(3))
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
    with pytest.raises(InputError, match=r"\b2 processes.*\b1\b"):
        setup(1)


def test_few_answers_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="3 samples or more, got 2 of 1 fields"):
        Inverse(tiny_denoiser(), Burgers(), Select(-1, 3, 8), DPS(), fields=1, samples=2)
