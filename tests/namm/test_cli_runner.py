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
    PROBLEM,
    ROOT,
    TRAINER,
    assert_identical,
    checkpoint,
    edited,
    files,
    process,
    stop,
    write,
)
from tests.commands import problem as problem  # a fixture

STAGES: dict[str, Any] = {
    "first": {"verb": "fit", "configs": ["data.yaml", "namm.yaml"]},
    "check": {
        "verb": "validate",
        "configs": ["data.yaml", "namm.yaml"],
        "args": ["--ckpt_path={runs}/first/checkpoints/last.ckpt"],
    },
    "second": {
        "verb": "fit",
        "configs": ["data.yaml", "namm.yaml", "second.yaml"],
        "args": ["--model.init_args.init_from={runs}/first/checkpoints/last.ckpt"],
    },
    "third": {"verb": "fit", "configs": ["data.yaml", "namm.yaml"]},
    "report": {"verb": "report"},
}


RUN = ["run", "configs/toy", "--scale", "demo"]


RUNS = Path("runs/toy-demo")


@pytest.fixture
def stages(problem: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    r"""A problem with four stages and a report. Returns the folders reported on."""
    trainer = edited(TRAINER, "trainer.logger.init_args", {"save_dir": "runs"})
    write("configs/trainer.yaml", edited(trainer, "trainer.max_steps", 100))
    write("configs/toy/demo/trainer.yaml", {"trainer": {"max_steps": 3}})
    write("configs/toy/data.yaml", {"data": PROBLEM["data"]})
    write("configs/toy/namm.yaml", {"model": PROBLEM["model"]})
    write("configs/toy/second.yaml", {"trainer": {"max_steps": 100}})
    write("configs/toy/demo/second.yaml", {"trainer": {"max_steps": 2}})
    write("configs/toy/run.yaml", {"stages": STAGES})
    reported: list[Path] = []
    monkeypatch.setattr("namm.cli.runner.report", reported.append)
    return reported


def commands(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("[")]


def times() -> dict[str, int]:
    return {name: time for name, time in files().items() if name.endswith(".json")}


def test_stages_run_in_order_and_once(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None

    shown = commands(capsys.readouterr().out)
    configs = "-c configs/trainer.yaml -c configs/toy/demo/trainer.yaml -c configs/toy/data.yaml"
    assert [line.split()[2] for line in shown] == ["fit", "validate", "fit", "fit", "report"]
    assert shown[0] == (
        f"[1/5] namm fit {configs} -c configs/toy/namm.yaml --trainer.logger.name toy-demo "
        "--trainer.logger.version first --ckpt_path last"
    )
    assert shown[4] == "[5/5] namm report runs/toy-demo"
    assert "-c configs/toy/second.yaml -c configs/toy/demo/second.yaml --trainer" in shown[2]
    assert "--ckpt_path=runs/toy-demo/first/checkpoints/last.ckpt" in shown[1]
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


def step(stage: str) -> int:
    return checkpoint(stage, RUNS)["global_step"]


def test_stage_is_a_plain_command(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--to", "first"]) is None
    command = commands(capsys.readouterr().out)[0].split()[2:]
    command[command.index("toy-demo")] = "by-hand"

    assert main(command) is None
    assert_identical(checkpoint("first", RUNS), checkpoint("first", "runs/by-hand"))


def test_dry_run_does_nothing(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = files()

    assert main([*RUN, "--dry-run"]) is None
    assert len(commands(capsys.readouterr().out)) == 5
    assert files() == before and not stages


def test_to_stops_after_a_stage(stages: list[Path]) -> None:
    assert main([*RUN, "--to", "check"]) is None
    assert sorted(path.name for path in RUNS.iterdir()) == ["check", "first"]


def test_included_stages_come_first(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shared = {name: STAGES[name] for name in ("first", "check", "third")}
    write("configs/stages.yaml", {"stages": shared})
    own = {name: STAGES[name] for name in ("second", "third", "report")}
    write("configs/toy/run.yaml", {"include": "../stages.yaml", "stages": own})

    assert main([*RUN, "--dry-run"]) is None
    shown = commands(capsys.readouterr().out)
    versions = [line.split("--trainer.logger.version ")[-1].split()[0] for line in shown[:-1]]
    assert versions == ["first", "check", "second", "third"]
    assert shown[-1] == "[5/5] namm report runs/toy-demo"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"include": "../stagse.yaml", "stages": STAGES},
            "no configs/stagse.yaml: check the `include` of configs/toy/run.yaml",
        ),
        ({"include": "run.yaml", "stages": STAGES}, "configs/toy/run.yaml includes itself"),
        ({"inclde": "../stages.yaml", "stages": STAGES}, "did you mean: include?"),
        ({"stages": {**STAGES, "first": None}}, "'first' is None"),
        (
            {"stages": {"first": {"verb": "fit", "configs": "namm.yaml"}}},
            "configs of 'first' is namm.yaml, expected a list",
        ),
    ],
)
def test_mistake_in_the_stages_is_named(
    stages: list[Path], content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("configs/toy/run.yaml", content)

    assert main([*RUN, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_stages_that_are_no_yaml_are_named(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("configs/toy/run.yaml").write_text("stages: {first: [}")

    assert main([*RUN, "--dry-run"]) == 2
    assert "configs/toy/run.yaml is not valid YAML" in capsys.readouterr().err


def test_change_is_not_mixed_in(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) is None
    write("configs/toy/demo/second.yaml", {"trainer": {"max_steps": 3}})
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
    write("configs/toy/run.yaml", {"stages": edited(STAGES, "check.verb", "test")})

    assert main(RUN) == 2
    assert "holds another 'check': its verb" in capsys.readouterr().err


def test_change_reaches_the_stages_that_read_it(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) is None
    args = ["--model.optimiser.lr=0.1"]
    write("configs/toy/run.yaml", {"stages": edited(STAGES, "first.args", args)})

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
    args = stop(2, signal.SIGINT)
    write("configs/toy/run.yaml", {"stages": edited(STAGES, "first.args", args)})

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


def test_unfinished_stage_of_another_configuration(
    stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--to", "first"]) is None
    (RUNS / "first/finished.json").unlink()
    write("configs/toy/demo/trainer.yaml", {"trainer": {"max_steps": 4}})

    assert main(RUN) == 2
    assert "trainer.max_steps was 3 and is 4" in capsys.readouterr().err
    assert step("first") == 3


MISTAKES: dict[str, tuple[Any, list[str], list[str]]] = {
    "verb": (edited(STAGES, "first.verb", "fitt"), RUN, ["'first' is fitt", "did you mean: fit?"]),
    "key": (edited(STAGES, "first.config", []), RUN, ["no key 'config'", "mean: configs?"]),
    "file": (
        edited(STAGES, "second.configs", ["dta.yaml"]),
        RUN,
        ["stage 'second': there is no file configs/toy/dta.yaml", "did you mean: data.yaml?"],
    ),
    "option": (
        edited(STAGES, "third.args", ["--model.sigma_mex=1"]),
        RUN,
        ["stage 'third': model: namm.NAMM has no option 'sigma_mex'", "did you mean: sigma_max?"],
    ),
    "no stages": ({}, RUN, ["configs/toy/run.yaml names no stages"]),
    "scale": (STAGES, ["run", "configs/toy", "--scale", "demos"], ["'demos'", "mean: demo?"]),
    "stage": (STAGES, [*RUN, "--from", "frist"], ["no stage 'frist'", "did you mean: first?"]),
    "order": (
        STAGES,
        [*RUN, "--from", "second", "--to", "first"],
        ["nothing from 'second' to 'first'", "exchange --from and --to"],
    ),
    "problem": (STAGES, ["run", "configs/tyo"], ["there is no configs/tyo/run.yaml"]),
    "nothing": (STAGES, ["run"], ["required: problem"]),
    "argument": (STAGES, [*RUN, "--form=x"], ["unrecognized arguments: --form=x"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_shows_before_anything_runs(
    name: str, stages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    content, argv, parts = MISTAKES[name]
    write("configs/toy/run.yaml", {"stages": content})
    before = files()

    assert main(argv) == 2

    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and "Traceback" not in error
    assert all(part in error for part in parts), error
    assert files() == before


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("configs/*/run.yaml")), ids=lambda f: f.parent.name
)
def test_configurations_parse(file: Path, problem: Path) -> None:
    scales = [path.name for path in file.parent.iterdir() if path.is_dir()]
    for scale in [[], *(["--scale", name] for name in scales)]:
        assert main(["run", str(file.parent), *scale, "--dry-run"]) is None


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
    write("configs/toy/demo/trainer.yaml", {"trainer": overlay})
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
    configs = ("trainer", "burgers/data", "burgers/inverse")
    argv = [word for config in configs for word in ("-c", f"{ROOT}/configs/{config}.yaml")]
    solver = parse(["test", *argv, f"--model.init_args.solver=inverse.{name}"])["model"][
        "init_args"
    ]["solver"]

    built = build_part(solver)
    assert type(built).__name__ == name and built.transition.steps == 1000
