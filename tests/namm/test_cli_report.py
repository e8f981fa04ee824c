"""Refusals of a report: results of which it would have to drop some."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from constraints import InputError
from namm.cli.figure import draw
from namm.cli.main import main
from namm.cli.report import read_results, report
from namm.evaluation.training_costs import compute
from namm.training.folder import LOCK
from tests.commands import busy


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


def report_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path / "one", "one", "DPS", 0.5)
    for name in ("namm.cli.report.draw", "constraints.files.os.replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(name, fail)
            report(tmp_path)
        assert report_files(tmp_path) == {}
    report(tmp_path)
    before = report_files(tmp_path)
    assert before.keys() == {"results.json", "report.md", "report.png"}
    write(tmp_path / "two", "two", "DPS", 0.25)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("namm.cli.report.draw", fail)
        report(tmp_path)
    assert report_files(tmp_path) == before


def test_second_report_at_once_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "one", "one", "DPS", 0.5)
    with busy(tmp_path), pytest.raises(InputError, match="works in"):
        report(tmp_path)
    assert report_files(tmp_path).keys() == {LOCK}


def test_report_of_more_results_replaces_the_former(tmp_path: Path) -> None:
    write(tmp_path / "one", "one", "DPS", 0.5)
    report(tmp_path)
    report(tmp_path)
    (tmp_path / "report.png").unlink()
    write(tmp_path / "two", "two", "DPS", 0.25)
    report(tmp_path)
    assert len(gathered(tmp_path)) == 4 and (tmp_path / "report.png").exists()


@pytest.mark.parametrize("change", ["value", "stage"])
def test_report_of_other_results_stays(tmp_path: Path, change: str) -> None:
    write(tmp_path / "one", "one", "DPS", 0.5)
    write(tmp_path / "two", "two", "DPS", 0.5)
    report(tmp_path)
    before = report_files(tmp_path)
    shutil.rmtree(tmp_path / "two")
    if change == "value":
        write(tmp_path / "two", "two", "DPS", 0.25)

    with pytest.raises(InputError, match=r"is there already.*--replace"):
        report(tmp_path)
    assert report_files(tmp_path) == before
    assert main(["report", str(tmp_path), "--replace"]) is None
    assert report_files(tmp_path) != before


@pytest.mark.parametrize("name", ["results.json", "report.md", "report.png"])
@pytest.mark.parametrize("reported", [False, True])
def test_file_of_a_person_is_not_replaced_by_a_report(
    tmp_path: Path, name: str, reported: bool
) -> None:
    write(tmp_path / "one", "one", "DPS", 0.5)
    if reported:
        report(tmp_path)
    (tmp_path / name).write_text('{"rows": [], "stages": {}}')
    before = report_files(tmp_path)

    with pytest.raises(InputError, match=rf"{name} is there already"):
        report(tmp_path)
    assert report_files(tmp_path) == before


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


def test_stars_of_the_figure_are_the_distances_of_generation(tmp_path: Path) -> None:
    def row(task: str, method: str, metric: str, value: float) -> dict[str, Any]:
        ends = {"value": value, "ci95": [value, value], "protocol": "clean"}
        return {"task": task, "method": method, "metric": metric, **ends}

    write(tmp_path / "generation", "generation", "mdm", 0.5)
    stages = {tmp_path / "generation": read_results(tmp_path / "generation" / "results.json")}
    rows = [
        row("generation", "mdm", "distance", 0.5),
        row("generation", "mdm", "mmd", 0.25),
        row("generation", "untrained", "distance", 0.125),
        row("inverse", "mdm", "distance", 0.75),
    ]
    spent = {"generation": {"mdm": 3e12}, "inverse": {"mdm": 4e12}}
    training = draw(stages, rows, {}, spent).subfigs[-1].axes[1]
    assert [line.get_xydata().tolist() for line in training.lines] == [[[3.0, 0.5]]]
    assert [text.get_text() for text in training.get_legend().get_texts()] == ["mdm, test"]


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results below"):
        report(tmp_path)
    assert not [*tmp_path.iterdir()]
