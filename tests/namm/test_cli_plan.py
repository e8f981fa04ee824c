"""The identity of a stage: which change makes it another one, and which does not."""

import json
from pathlib import Path

import pytest

from namm.cli.main import main
from namm.cli.plan import plan
from tests.commands import busy, contents, edited, files, write
from tests.namm.toy import FILE, RUN, RUNS, SCALE, STAGES, step, write_scale, write_stages
from tests.namm.toy import problem as problem  # a fixture
from tests.namm.toy import stages as stages  # a fixture


def test_unfinished_stage_of_another_configuration(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--to", "first"]) is None
    (RUNS / "first/finished.json").unlink()
    write_stages(edited(STAGES, "first.model", {"init_args": {"sigma_max": 0.3}}))
    before = files()

    assert main(RUN) == 2
    assert "sigma_max was 0.1 and is 0.3" in capsys.readouterr().err
    assert files() == before


@pytest.mark.parametrize(("steps", "reached"), [(2, 3), (3, 3), (5, 5)])
def test_unfinished_training_goes_on_to_another_number_of_steps(
    steps: int, reached: int, stages: list[Path]
) -> None:
    assert main([*RUN, "--to", "first"]) is None
    (RUNS / "first/finished.json").unlink()
    write_scale(steps, 2)

    assert main([*RUN, "--to", "first"]) is None
    assert step("first") == reached and (RUNS / "first/finished.json").exists()


def test_finished_training_of_more_steps_is_the_same_stage(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None
    before = contents()
    write_scale(2, 1)
    capsys.readouterr()

    assert main(RUN) is None
    out = capsys.readouterr().out
    assert out.count("skipped") == 4 and "trainer.max_steps was 3 and is 2" in out
    assert contents(SCALE.name) == {k: v for k, v in before.items() if k != str(SCALE)}


def test_stage_that_failed_before_its_first_step_leaves_nothing(stages: list[Path]) -> None:
    second = {"init_args": {"init_from": "{runs}/none/checkpoints/last.ckpt"}}
    write_stages(edited(STAGES, "second.model", second))
    assert main([*RUN, "--to", "check"]) is None
    before = contents()

    assert main(RUN) == 1
    assert contents() == before and not (RUNS / "second").exists()
    write_stages(STAGES)
    assert main(RUN) is None


def test_stage_that_was_killed_before_its_first_step_is_the_same_stage(
    stages: list[Path],
) -> None:
    started = {"key": "", "inputs": {}, "config": {}, "begun": 0.0, "spent": 0.0}
    write(RUNS / "first/started.json", json.dumps(started))
    write(RUNS / "first/events.out.tfevents.1.host.1.0", "")
    write(RUNS / "first/.namm.lock", "1")

    assert main([*RUN, "--to", "first"]) is None
    assert step("first") == 3


def test_refused_resume_leaves_the_folder_of_the_stage(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--to", "first"]) is None
    (RUNS / "first/finished.json").unlink()
    Path("data.h5").unlink()
    write(FILE, FILE.read_text().replace("batch_size: 4", "batch_size: 2"))
    started = RUNS / "first/started.json"  # as if `namm run` did not know the difference
    key = plan(Path("configs/toy"), "demo")[0].key
    write(started, json.dumps(json.loads(started.read_text()) | {"key": key}))
    before = contents("data.h5")

    assert main([*RUN, "--to", "first"]) == 1
    assert "batch_size 4, this training has batch_size 2" in capsys.readouterr().err
    assert contents("data.h5") == before


def test_report_is_moved_aside_with_its_results(stages: list[Path]) -> None:
    assert main(RUN) is None
    write(RUNS / "report.md", "| task |")

    assert main([*RUN, "--from", "third"]) is None
    assert not (RUNS / "report.md").exists()
    assert Path("runs/toy-demo.old-1/report.md").read_text() == "| task |"


def test_second_run_of_a_stage_changes_nothing(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--to", "first"]) is None
    (RUNS / "first/finished.json").unlink()
    before = contents()
    with busy(RUNS / "first") as other:
        assert main([*RUN, "--to", "first"]) == 1
    assert f"process {other.pid}) works in" in capsys.readouterr().err
    assert contents(".namm.lock") == before


def test_folder_in_which_a_command_works_is_not_moved(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None
    before = contents()
    with busy(RUNS / "third"):
        assert main([*RUN, "--from", "second"]) == 1
    assert "works in" in capsys.readouterr().err
    assert contents(".namm.lock") == before
