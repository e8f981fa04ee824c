"""The verb `run`: stages in order, each exactly once, and no mixture of configurations."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from namm.cli.lightning import parse
from namm.cli.main import main
from namm.training.checkpoint import build_part
from tests.commands import (
    ROOT,
    assert_identical,
    checkpoint,
    edited,
    files,
    process,
    write,
)
from tests.namm.toy import RUN, RUNS, SCALE, STAGES, step, write_scale, write_stages
from tests.namm.toy import problem as problem  # a fixture
from tests.namm.toy import stages as stages  # a fixture


def commands(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("[")]


def times() -> dict[str, int]:
    return {name: time for name, time in files().items() if name.endswith(".json")}


def test_stages_run_in_order_and_once(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None

    shown = commands(capsys.readouterr().out)
    assert [line.split()[2] for line in shown] == ["fit", "validate", "fit", "fit", "report"]
    assert shown[0] == f"[1/5] namm fit -c {SCALE}::first --ckpt_path last"
    assert shown[1] == f"[2/5] namm validate -c {SCALE}::check"
    assert shown[4] == "[5/5] namm report runs/toy-demo"
    assert stages == [RUNS]
    assert step("first") == 3 and step("second") == 2
    record = json.loads((RUNS / "first/finished.json").read_text())
    assert shown[0] == f"[1/5] {record['command']}"
    assert record.keys() == {"command", "key", "seconds", "started", "finished"}

    before = times()
    assert main(RUN) is None
    assert capsys.readouterr().out.count("skipped") == 4
    assert times() == before
    assert stages == [RUNS, RUNS]


def test_stage_is_a_plain_command(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--to", "first"]) is None
    command = commands(capsys.readouterr().out)[0].split()[2:]

    assert main([*command, "--trainer.logger.name=by-hand"]) is None
    assert_identical(checkpoint("first", RUNS), checkpoint("first", "runs/by-hand"))


def test_dry_run_does_nothing(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = files()

    assert main([*RUN, "--dry-run"]) is None
    assert len(commands(capsys.readouterr().out)) == 5
    assert files() == before and not stages


def test_dry_run_takes_a_batch_where_the_data_are_there(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--to", "first"]) is None
    before = files()
    wrong: dict[str, tuple[Any, str]] = {
        "mirror.init_args.forward_map.init_args.channels": (3, "of 3 channels, got fields"),
        "mirror.init_args.inverse_map.init_args.patch": (5, "multiples of 5"),
        "constraint.class_path": ("constraints.Divergence", "Divergence expects"),
    }
    for key, (value, message) in wrong.items():
        for name in reversed(["model", "init_args", *key.split(".")]):
            value = {name: value}
        trainer = {"trainer": {"max_steps": 3}}
        write(SCALE, {"base": "toy.yaml", "shared": trainer, "stages": {"first": value}})
        assert main([*RUN, "--dry-run"]) == 1
        error = capsys.readouterr().err
        assert "stage 'first': " in error and message in error
    assert {**files(), str(SCALE): 0} == {**before, str(SCALE): 0}


def test_to_stops_after_a_stage(stages: list[Path]) -> None:
    assert main([*RUN, "--to", "check"]) is None
    assert sorted(path.name for path in RUNS.iterdir()) == ["check", "first"]


def test_change_is_not_mixed_in(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) is None
    write_scale(3, 3)
    before = files()

    assert main(RUN) == 2

    error = capsys.readouterr().err
    assert "runs/toy-demo/second holds another 'second': trainer.max_steps was 2 and is 3" in error
    assert error.endswith("namm run configs/toy --scale demo --from second\n")
    assert files() == before

    assert main([*RUN, "--from", "second"]) is None
    assert step("second") == 3
    aside = Path("runs/toy-demo.old-1")
    assert sorted(path.name for path in aside.iterdir()) == ["second", "third"]
    assert (aside / "second/checkpoints/last.ckpt").exists()
    assert main(RUN) is None


def test_change_of_the_verb_is_not_mixed_in(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None
    write_stages(edited(STAGES, "check.verb", "test"))

    assert main(RUN) == 2
    assert "holds another 'check': its verb" in capsys.readouterr().err


def test_change_reaches_the_stages_that_read_it(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None
    model = {"init_args": {"optimiser": {"lr": 0.1}}}
    write_stages(edited(STAGES, "first.model", model))

    assert main([*RUN, "--from", "first", "--to", "first"]) is None
    assert main(RUN) == 2
    assert "'check': its input 'first' has changed" in capsys.readouterr().err
    assert main([*RUN, "--from", "check", "--to", "second"]) is None
    capsys.readouterr()
    assert main(RUN) is None  # `third` reads nothing that changed
    assert capsys.readouterr().out.count("skipped") == 4


def test_stage_made_anew_reaches_the_stages_that_read_it(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None
    assert main([*RUN, "--from", "first", "--to", "first"]) is None
    assert main(RUN) == 2
    assert "'check': its input 'first' was made anew after it" in capsys.readouterr().err
    assert main([*RUN, "--from", "check"]) is None
    assert main(RUN) is None


def test_folder_of_unknown_origin_is_left_alone(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write(RUNS / "first/notes", "mine")

    assert main(RUN) == 2
    assert "it was not made by `namm run`" in capsys.readouterr().err
    assert [path.name for path in (RUNS / "first").iterdir()] == ["notes"]


def test_interrupted_stage_goes_on(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    signals = {
        "class_path": "plugin.Signal",
        "init_args": {"step": 2, "signal": int(signal.SIGINT)},
    }
    write_stages(edited(STAGES, "first.trainer", {"callbacks": [signals]}))

    assert main([*RUN, "--to", "check"]) == 130
    assert capsys.readouterr().err.endswith(
        "namm: 'first' was stopped. To continue:\n  namm run configs/toy --scale demo --to check\n"
    )
    assert step("first") == 2
    assert not (RUNS / "first/finished.json").exists() and not (RUNS / "check").exists()
    started = json.loads((RUNS / "first/started.json").read_text())
    assert main([*RUN, "--to", "check"]) is None
    assert step("first") == 3
    again = json.loads((RUNS / "first/started.json").read_text())
    finished = json.loads((RUNS / "first/finished.json").read_text())
    assert started["spent"] == 0 < again["spent"] < finished["seconds"]


MISTAKES: dict[str, tuple[Any, list[str], list[str]]] = {
    "verb": (
        edited(STAGES, "first.verb", "fitt"),
        RUN,
        ["first: expected", "got 'fitt' (configs/toy.yaml, line ", "mean: fit?"],
    ),
    "block": (
        edited(STAGES, "second.blocks", ["modle"]),
        RUN,
        ["second: there is no block 'modle' (", "did you mean: model?"],
    ),
    "option": (
        edited(STAGES, "third.model", {"init_args": {"sigma_mex": 1}}),
        RUN,
        [
            "stage 'third': model: namm.NAMM has no option 'sigma_mex' (configs/toy.yaml, line ",
            "did you mean: sigma_max?",
        ],
    ),
    "no stages": ({}, RUN, ["configs/toy.demo.yaml names no stages"]),
    "scale": (
        STAGES,
        ["run", "configs/toy", "--scale", "demos"],
        ["configs/toy has no scale 'demos'; its scales: demo.", "mean: demo?"],
    ),
    "stage": (
        STAGES,
        [*RUN, "--from", "frist"],
        ["no stage 'frist'", "its stages: ", "did you mean: first?"],
    ),
    "order": (
        STAGES,
        [*RUN, "--from", "second", "--to", "first"],
        ["'first' comes before 'second'"],
    ),
    "problem": (STAGES, ["run", "configs/tyo"], ["there is no file 'configs/tyo.yaml'"]),
    "nothing": (STAGES, ["run"], ["required: problem"]),
    "argument": (STAGES, [*RUN, "--form=x"], ["unrecognized arguments: --form=x"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_shows_before_anything_runs(
    name: str, stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    content, argv, parts = MISTAKES[name]
    write_stages(content)
    before = files()

    assert main(argv) == 2

    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and "Traceback" not in error
    assert all(part in error for part in parts), error
    assert files() == before


@pytest.mark.slow
def test_killed_run_goes_on(stages: list[Path]) -> None:
    assert main([*RUN, "--to", "second"]) is None
    RUNS.rename("whole")
    code = (
        "import os, signal\nfrom lightning.pytorch import Trainer\n"
        "save = Trainer.save_checkpoint\n"
        "def kill(self, path, *args, **kwargs):\n"
        "    if 'second' in str(path):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    save(self, path, *args, **kwargs)\n"
        "Trainer.save_checkpoint = kill"
    )

    assert process(*RUN, code=code).returncode == -signal.SIGKILL
    done = process(*RUN, "--to", "second")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped") == 2
    for stage in ("first", "second"):
        assert_identical(checkpoint(stage, "whole"), checkpoint(stage, RUNS))


@pytest.mark.slow
def test_stages_follow_each_other_on_two_processes(stages: list[Path]) -> None:
    overlay = {"max_steps": 2, "devices": 2, "strategy": "ddp", "callbacks": ["plugin.Ranks"]}
    blocks = {"second": {"trainer": {"max_steps": 2}}}
    write(SCALE, {"base": "toy.yaml", "shared": {"trainer": overlay}, "blocks": blocks})
    ranks = "from lightning.pytorch import Callback\n\nclass Ranks(Callback):\n"
    ranks += "    def on_fit_start(self, trainer, module):\n"
    ranks += "        open(f'{type(module).__name__}-{trainer.global_rank}', 'a').write('x')\n"
    write("plugin.py", ranks)

    done = process(*RUN, "--to", "second")

    assert done.returncode == 0, done.stderr
    assert step("first") == step("second") == 2
    assert [Path(f"NAMM-{rank}").read_text() for rank in range(2)] == ["xx", "xx"]


@pytest.mark.parametrize("name", ["DPS", "DSG", "LGDMC", "Trust", "PiGDM", "CPiGDM"])
def test_solver_is_chosen_by_its_name(name: str) -> None:
    argv = ["test", "-c", f"{ROOT}/configs/burgers.yaml::inverse/dps"]
    config = parse([*argv, f"--model.init_args.solver=inverse.{name}"])

    solver = config["model"]["init_args"]["solver"]
    built = build_part(solver)
    assert type(built).__name__ == name and built.transition.steps == 1000
