"""The test stage of generation: its scores, its batches and its processes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from constraints import Burgers, Constraint, Distance, Given, InputError, Sum, derive_seed
from mdm import Ancestral, ChainSampler, DPMSolver, Generation
from tests.mdm.small import tiny_mdm
from tests.problems import (
    Affine,
    Recorder,
    Spawned,
    make_trainer,
    processes,
    recorded,
    tiny_data,
    tiny_denoiser,
)

KEYS = {
    *("task", "method", "protocol", "metric", "value", "ci95"),
    *("n", "seed", "calls", "vjps", "flops", "seconds"),
}


# generation
def generate(folder: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The rows of the results of a generation, and its samples by seed."""

    inner = options.pop("sampler", DPMSolver(3))
    trainer_options = options.pop("trainer", {})
    sampler = Recorder(inner, folder / "samples")
    options = {"samples": 6, "batch_samples": 4, "seed": 5, **options}
    denoiser = options.pop("denoiser", None) or tiny_denoiser()
    stage = Generation(denoiser, Burgers(), sampler=sampler, **options)
    data = tiny_data(folder.parent)
    make_trainer(folder, **trainer_options).test(stage, data, verbose=False)
    return json.loads((folder / "results.json").read_text())["rows"], recorded(folder / "samples")


def pick(found: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in found if all(row[k] == v for k, v in wanted.items())]


def test_generation_scores_what_it_drew(tmp_path: Path) -> None:
    found, samples = generate(tmp_path / "run", mirror=Affine(2.0, 1.0, 0.5), method="MDM")
    seeds = [derive_seed(5, "test", i) for i in range(6)]
    assert set(samples) == {str(seed) for seed in seeds}
    x = 0.5 * torch.stack([samples[str(seed)][1] for seed in seeds])
    distance = Burgers()(x)

    assert all(set(row) == KEYS for row in found)
    assert {row["protocol"] for row in found} == {"clean"}
    metrics = [row["metric"] for row in pick(found, method="MDM")]
    assert sorted(metrics) == ["cycle", "distance", "mmd", "spectrum", "spread"]
    (row,) = pick(found, method="MDM", metric="distance")
    assert row["value"] == pytest.approx(float(distance.mean()), rel=1e-5)
    half = 1.96 * float(distance.std()) / math.sqrt(6)
    assert row["ci95"] == pytest.approx([row["value"] - half, row["value"] + half], rel=1e-4)
    assert (row["n"], row["seed"], row["calls"], row["vjps"]) == (6, 5, 3, 0)
    assert row["task"] == "generation" and row["seconds"] > 0 and row["flops"] > 0
    (row,) = pick(found, metric="cycle")
    assert row["value"] == pytest.approx(0.5)  # f(g(x)) = x + 0.5
    (row,) = pick(found, method="data")
    assert row["metric"] == "distance" and 0 < row["value"] <= 1e-6 and row["n"] == 6


def test_generation_does_not_depend_on_its_batches(tmp_path: Path) -> None:
    a, one = generate(tmp_path / "a", batch_samples=6)
    b, other = generate(tmp_path / "b", batch_samples=1)

    assert one.keys() == other.keys()
    for seed in one:
        torch.testing.assert_close(one[seed], other[seed], rtol=0, atol=1e-5)
    for x, y in zip(a, b, strict=True):
        assert x["value"] == pytest.approx(y["value"], rel=1e-3, abs=1e-5)
        # the cost of a sample is that of one sample
        assert (x["calls"], x["flops"]) == (y["calls"], y["flops"])


def test_restorer_acts_on_the_fields_at_the_end(tmp_path: Path) -> None:
    mirror = Affine(2.0, 1.0, 0.25)
    found, samples = generate(tmp_path / "run", restorer=mirror)
    x = torch.stack([pair[1] for pair in samples.values()])

    (row,) = pick(found, method="dm", metric="distance")
    restored = Burgers()(0.5 * x + 0.25)
    assert row["value"] == pytest.approx(float(restored.mean()), rel=1e-5)
    (row,) = pick(found, metric="cycle")  # the guard of the restorer
    assert row["value"] > 0.05


def test_published_chain_scores_both_of_its_ends(tmp_path: Path) -> None:
    found, samples = generate(tmp_path / "run", sampler=ChainSampler(Ancestral()), samples=4)
    y, mean = torch.stack(list(samples.values())).unbind(dim=1)

    for protocol, end in (("published", y), ("clean", mean)):
        (row,) = pick(found, method="dm", metric="distance", protocol=protocol)
        assert row["value"] == pytest.approx(float(Burgers()(end).mean()), rel=1e-4)
        assert (row["calls"], row["n"]) == (1000, 4)
        assert len(pick(found, method="dm", protocol=protocol)) == 5
    assert float((y - mean).std()) == pytest.approx(0.0074, rel=0.2)


class Largest(Distance):
    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
        return x.flatten(1).amax(dim=1)


def test_second_test_starts_afresh(tmp_path: Path) -> None:
    stage = Generation(tiny_denoiser(), Burgers(), sampler=DPMSolver(2), samples=4)
    rows = []
    for _ in range(2):
        make_trainer(tmp_path).test(stage, tiny_data(tmp_path), verbose=False)
        rows.append(json.loads((tmp_path / "results.json").read_text())["rows"])

    one, other = ([{**row, "seconds": 0} for row in found] for found in rows)
    assert one == other


@pytest.mark.parametrize("constraint", [Largest(), Sum([Largest()])], ids=["one", "sum"])
def test_constraint_without_residual_can_be_evaluated(
    tmp_path: Path, constraint: Constraint
) -> None:
    stage = Generation(tiny_denoiser(), constraint, sampler=DPMSolver(2), samples=3)
    make_trainer(tmp_path).test(stage, tiny_data(tmp_path), verbose=False)

    assert (tmp_path / "results.json").exists() and (tmp_path / "fields.png").exists()


class Level(Constraint):
    """A field is everywhere at the level that its data tell."""

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        assert given is not None
        return x - given["level"].reshape(-1, 1, 1, 1)


def test_samples_take_the_data_of_the_test_fields(tmp_path: Path) -> None:
    x, level = torch.randn(3, 1, 8, 8), torch.tensor([0.0, 10.0, 20.0])
    items = [{"x": x[i], "index": i, "given": {"level": level[i]}} for i in range(3)]
    inner = Recorder(DPMSolver(2), tmp_path / "samples")
    stage = Generation(tiny_denoiser(), Level(), sampler=inner, samples=4, batch_samples=3)
    make_trainer(tmp_path).test(stage, DataLoader(items, batch_size=2), verbose=False)
    drawn = recorded(tmp_path / "samples")
    found = json.loads((tmp_path / "results.json").read_text())["rows"]

    y = torch.stack([drawn[str(derive_seed(0, "test", i))][1] for i in range(4)])
    (row,) = pick(found, method="dm", metric="distance")
    # sample 3 begins again at field 0
    expected = Level()(y, {"level": torch.tensor([0.0, 10.0, 20.0, 0.0])}).mean()
    assert row["value"] == pytest.approx(float(expected), rel=1e-4)
    assert torch.equal(torch.load(tmp_path / "given.pt")["level"], level)
    model = tiny_mdm(constraint=Level(), val_samples=4, batch_samples=3)
    make_trainer(tmp_path).validate(model, DataLoader(items, batch_size=2), verbose=False)
    assert len(model.given) == 2


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_draw_the_samples_of_one(tmp_path: Path) -> None:
    _, one = generate(tmp_path / "one", samples=5)
    two = {"devices": 2, "strategy": Spawned()}
    with processes():
        found, both = generate(tmp_path / "two", samples=5, trainer=two)

    assert one.keys() == both.keys() and len(one) == 5
    for seed in one:
        torch.testing.assert_close(one[seed], both[seed], rtol=0, atol=1e-5)
    (row,) = pick(found, method="dm", metric="distance")
    x = torch.stack([pair[1] for pair in one.values()])
    assert row["value"] == pytest.approx(float(Burgers()(x).mean()), rel=1e-5)
    assert (row["n"], row["calls"]) == (5, 3)
    (row,) = pick(found, method="data")
    assert row["n"] == 6


def test_few_samples_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="at least 3 samples to compare, got 2"):
        Generation(tiny_denoiser(), Burgers(), samples=2)
