"""The whole chain of the Burgers problem, through `namm run`, on tiny networks."""

import json
from pathlib import Path

import pytest
import torch

from namm.cli.main import main
from tests.chains import ROW, write_tiny


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""A folder with the configurations of Burgers and a scale of seconds, where all has run."""
    folder = tmp_path_factory.mktemp("chain")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "configs/burgers", "--scale", "tiny"]) is None
    return folder


def test_results_have_every_method_with_its_guards(problem: Path) -> None:
    rows = json.loads((problem / "runs/burgers-tiny/results.json").read_text())["rows"]

    assert all(set(row) == ROW for row in rows)
    guards = {"distance", "mmd", "spread", "spectrum", "cycle"}
    for task, methods in (
        ("generation", {"DM", "DM, then f(g(.))", "MDM", "MDM, fine-tuned"}),
        ("inverse", {"DPS", "constraint-guided DPS", "mirror-DPS", "mirror-PiGDM"}),
    ):
        mine = [row for row in rows if row["task"] == task]
        assert {row["method"] for row in mine} == methods | {"data"}
        for method in methods:
            metrics = {row["metric"] for row in mine if row["method"] == method}
            more = {"chi2", "relative_error", "rejected"} if task == "inverse" else set()
            more |= {"unsolved"} if method == "mirror-PiGDM" else set()
            assert metrics == guards | more
    floor = next(row for row in rows if row["method"] == "data")
    assert floor["value"] < 1e-6 and floor["n"] == 16


def test_costs_are_those_of_the_method(problem: Path) -> None:
    rows = json.loads((problem / "runs/burgers-tiny/results.json").read_text())["rows"]
    cost = {
        row["method"]: (row["calls"], row["vjps"], row["n"])
        for row in rows
        if row["metric"] == "distance"
    }

    assert cost["DM"] == cost["MDM"] == (3, 0, 6)
    assert cost["DPS"] == cost["mirror-DPS"] == (3, 3, 4)
    assert cost["mirror-PiGDM"] == (20, 20, 4)


def test_plain_model_has_the_operations_of_the_other_trainings(problem: Path) -> None:
    trained = json.loads((problem / "runs/burgers-tiny/results.json").read_text())["training"]
    budget = sum(trained[stage]["flops"] for stage in ("namm", "mdm", "finetune"))

    # whole steps: at most half a step more or less
    assert abs(trained["dm"]["flops"] - budget) <= trained["dm"]["flops"] / trained["dm"]["steps"]


def test_fine_tuning_moves_the_inverse_map_alone(problem: Path) -> None:
    runs = problem / "runs/burgers-tiny"
    first, second = (
        torch.load(runs / stage / "checkpoints/last.ckpt", weights_only=True)
        for stage in ("namm", "finetune")
    )
    # it starts from the average
    before, after = first["state_dict"], second["current_model_state"]

    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved and all(k.startswith("mirror.inverse_map") for k in moved)


def test_report_says_what_was_measured(problem: Path) -> None:
    folder = problem / "runs/burgers-tiny"
    text = (folder / "report.md").read_text()

    assert "| DM, then f(g(.)) | clean |" in text and "| finetune | 3 |" in text
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "generation/dm/fields.png").exists()


def test_finished_stages_are_skipped(
    problem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(problem)
    before = (problem / "runs/burgers-tiny/dm/checkpoints/last.ckpt").stat().st_mtime_ns

    assert main(["run", "configs/burgers", "--scale", "tiny"]) is None
    assert capsys.readouterr().out.count("skipped") == 13
    after = (problem / "runs/burgers-tiny/dm/checkpoints/last.ckpt").stat().st_mtime_ns
    assert before == after


@pytest.mark.slow  # 1000 calls
def test_published_protocol_scores_both_ends_of_one_run(
    problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(problem)
    argv = ["-c", "configs/burgers.tiny.yaml::inverse/dps", "--model.init_args.samples=3"]
    argv += ["--model.init_args.solver.init_args.transition=mdm.Ancestral"]

    main(["test", *argv, "--trainer.logger.version", "published"])

    rows = json.loads((problem / "runs/burgers-tiny/published/results.json").read_text())["rows"]
    ends = {row["protocol"]: row for row in rows if row["metric"] == "chi2"}
    assert set(ends) == {"clean", "published"}
    assert ends["clean"]["calls"] == ends["published"]["calls"] == 1000
