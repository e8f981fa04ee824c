"""Refusals of a report: results of which it would have to drop some."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from constraints import InputError
from namm.cli.report import report
from namm.evaluation.training_costs import compute


def write(folder: Path, task: str, method: str, value: float, n: int = 4) -> None:
    """The results of a test stage, with those of the data, and its fields."""
    common = {"protocol": "clean", "metric": "distance", "ci95": [value, value], "n": n, "seed": 0}
    common |= {"task": task, "calls": 1, "vjps": 0, "seconds": 1.0, "flops": 1e9}
    rows = [{**common, "method": method, "value": value}, {**common, "method": "data", "value": 0}]
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"rows": rows, "config": {}}))
    torch.save({method: torch.zeros(4, 1, 8, 8)}, folder / "fields.pt")


def gathered(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())["rows"]


def test_methods_of_two_tasks_may_share_a_name(tmp_path: Path) -> None:
    for task, value in (("one", 0.5), ("two", 0.25)):
        write(tmp_path / "inverse" / task, task, "DPS", value)
    report(tmp_path)

    found = [(row["task"], row["value"]) for row in gathered(tmp_path) if row["method"] == "DPS"]
    assert found == [("one", 0.5), ("two", 0.25)]
    assert len(gathered(tmp_path)) == 4


def test_results_of_the_same_name_are_not_dropped(tmp_path: Path) -> None:
    for place, value in (("a", 0.5), ("b", 0.25)):
        write(tmp_path / "inverse" / place, "one", "dps", value)
    with pytest.raises(InputError, match=r"a and .*b .*'dps'.*'one'"):
        report(tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_folder_above_the_runs_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "burgers" / "inverse" / "dps", "one", "DPS", 0.5)
    report(tmp_path / "burgers")
    with pytest.raises(InputError, match=r"burgers\b"):
        report(tmp_path)


def test_fine_tuned_maps_cost_the_model_whose_samples_they_saw() -> None:
    def stage(flops: float, *behind: str, finetuned: bool = False) -> dict[str, Any]:
        return {"flops": flops, "from": list(behind), "finetuned": finetuned}

    trained = {
        "namm": stage(1),
        "mdm": stage(10, "namm"),
        "finetune": stage(100, "namm", finetuned=True),
        "again": stage(1000, "namm", finetuned=True),
        "dm": stage(10000),
    }

    def spent(*stages: str) -> float:
        paths = [f"runs/{stage}/checkpoints/last.ckpt" for stage in stages]
        return compute({"config": {"parts": paths}}, trained)

    assert spent("dm", "finetune") == 10111 and spent("mdm") == 11 and spent("namm") == 1
    assert spent("mdm", "finetune") == 111  # nothing twice, and nothing of the other fine-tuning


@pytest.mark.parametrize("shape", [(2, 16), (2, 4, 8, 8)])
def test_lines_and_volumes_are_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write(tmp_path / "one", "one", "DPS", 0.5)
    torch.save({"DPS": torch.rand(4, *shape)}, tmp_path / "one" / "fields.pt")
    report(tmp_path)
    assert (tmp_path / "report.png").stat().st_size > 1000
