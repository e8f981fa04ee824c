r"""The command line: help, verbs, the run folder, and errors in a sentence."""

import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from namm.cli.errors import CommandError
from namm.cli.main import VERBS, main
from test_cli_tools import (
    FILES,
    PROBLEM,
    checkpoint,
    edited,
    files,
    fit,
    process,
    same,
    write,
)
from test_cli_tools import problem as problem  # a fixture


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) is None

    out = capsys.readouterr().out
    assert all(f"\n  {verb}  " in out for verb in VERBS)


@pytest.mark.parametrize("argv", [["--help"], ["fitt"]])
def test_light_commands_do_without_torch(argv: list[str], tmp_path: Path) -> None:
    check = "import atexit, sys\natexit.register(lambda: print('torch' in sys.modules))"

    assert process(*argv, code=check).stdout.endswith("False\n")


def test_verb_help_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])

    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"--{name}" in out for name in ("force", "ckpt_path", "checkpoint.every", "ema.de"))


MIRROR = "model.init_args.mirror"
MISTAKES: dict[str, tuple[Any, list[str], int, list[str]]] = {
    # name: (what problem.yaml becomes, further arguments, exit code, what the message holds)
    "key in trainer": (edited({**PROBLEM, "trainer": {}}, "trainer.max_step", 3), [], 2,
                       ["'trainer.max_step' (problem.yaml, line ", "mean: trainer.max_steps"]),
    "key at the top": ({**PROBLEM, "modle": 3}, [], 2, ["'modle'", "did you mean: model?"]),
    "key of the model": (edited(PROBLEM, "model.init_args.sigma_mex", 1), [], 2,
                         ["model: namm.NAMM has no option 'sigma_mex'", "mean: sigma_max?"]),
    "key of a part": (edited(PROBLEM, f"{MIRROR}.init_args.forward_map.init_args.widht", 1), [], 2,
                      ["model.mirror.forward_map: namm.ICNN has no option 'widht'",
                      "mean: width"]),
    "key on the line": (PROBLEM, ["--trainer.max_step=3"], 2, ["'trainer.max_step'.",
    "max_steps"]), "key of a part on the line": (PROBLEM, ["--model.constraint.viscosty=3"], 2,
                                  ["constraints.Burgers has no option",
                                  "did you mean: viscosity"]),
    "option": (PROBLEM, ["--ckpt_pth=x"], 2, ["no option 'ckpt_pth'", "did you mean: ckpt_path"]),
    "key beside init_args": (edited(PROBLEM, "model.initargs", {}), [], 2,
                             ["class_path and init_args", "initargs", "did you mean: init_args"]),
    "init_args alone": ({**PROBLEM, "model": {"init_args": {"lr": 1}}}, [], 2, ["no class_path"]),
    "class by its path": (edited(PROBLEM, "model.class_path", "namm.NAM"), [], 2,
                          ["model: there is no class 'namm.NAM'", "did you mean: namm.NAMM"]),
    "class by its name": (edited(PROBLEM, "model.init_args.constraint", {"class_path": "Burger"}),
                          [], 2, ["model.constraint:", "'Burger'", "mean: constraints.Burgers?"]),
    "class on the line": (PROBLEM, ["--model.constraint=Burger"], 2, ["'Burger'", "s.Burgers?"]),
    "class in a list": (edited(PROBLEM, "model.init_args.constraint", {
        "class_path": "Sum", "init_args": {"terms": [{"class_path": "Burger"}]}}), [], 2,
        ["model.constraint.terms: there is no class 'Burger'", "constraints.Burgers?"]),
    "callback": (PROBLEM, ["--trainer.callbacks+=LogField"], 2, ["'LogField'", "namm.LogFields"]),
    "module": (edited(PROBLEM, "model.init_args.constraint.class_path", "constraint.Burgers"), [],
               2, ["no module 'constraint'", "did you mean: constraints"]),
    "base class": (edited(PROBLEM, "model.init_args.constraint", {"class_path": "namm.ICNN"}), [],
                   2, ["model.constraint: namm.ICNN is not a Constraint", "constraints.Burgers"]),
    "type": (edited(PROBLEM, "model.init_args.lr", "fast"), [], 2,
             ["model.lr: expected float, got 'fast' (problem.yaml, line "]),
    "type in trainer": (PROBLEM, ["--trainer.max_epochs=many"], 2,
                        ["trainer.max_epochs: expected int or null, got 'many'"]),
    "choice": (edited(PROBLEM, "model.init_args.constraint.init_args.scheme", "eulr"), [], 2,
               ["expected 'euler' or 'crank_nicolson', got 'eulr'", "did you mean: euler?"]),
    "required": (edited(PROBLEM, "model.init_args", {}), [], 2, ["namm.NAMM needs", "mirror"]),
    "no model": ({"data": PROBLEM["data"]}, [], 2, ["namm fit needs model, in a file given with"]),
    "file": (PROBLEM, ["-c", "trainr.yaml"], 2, ["no file", "trainr.yaml", "mean: trainer.yaml?"]),
    "file of a part": (edited(PROBLEM, "data", "dta.yaml"), [], 2,
    ["there is no file 'dta.yaml'"]), "yaml": ("model: [1\ndata: 2", [], 2,
    ["problem.yaml is not valid YAML", "in line 2"]), "empty": ("", [], 2,
    ["problem.yaml holds no configuration"]), "seed twice": (edited(PROBLEM,
    "model.init_args.seed", 3), [], 2, ["The seed is given twice"]), "value": (edited(PROBLEM,
    "model.init_args.constraint.init_args.viscosity", -1), [], 1,
              ["error: Burgers expects positive viscosity", "-1.0"]),
    "device": (PROBLEM, ["--trainer.accelerator=abacus"], 1, ["abacus"]),
    "best": (PROBLEM, ["--ckpt_path=best"], 1, ["--ckpt_path last"]),
    "checkpoint": (PROBLEM, ["--ckpt_path=none.ckpt"], 1, ["no checkpoint none.ckpt"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_answered_in_a_sentence(
    name: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, options, code, parts = MISTAKES[name]
    write("problem.yaml", content)
    before = files()

    assert main(["fit", *FILES, *options]) == code

    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and "Traceback" not in error
    assert error.count("\n") <= 2, "more than a sentence and a suggestion"
    assert all(part in error for part in parts), error
    assert {**files(), "data.h5": 0} == {**before, "data.h5": 0}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"class_path": "Burger"}, ["no class 'Burger' (part.yaml, line 1)", "s.Burgers?"]),
        (
            {"class_path": "Burgers", "init_args": {"viscosty": 1}},
            ["no option 'viscosty' (part.yaml, line 3)", "did you mean: viscosity?"],
        ),
        (
            {"class_path": "Burgers", "init_args": {"viscosity": "thick"}},
            ["constraint.viscosity: expected float, got 'thick' (part.yaml, line 3)"],
        ),
    ],
)
def test_mistake_in_a_file_that_a_configuration_names(
    content: Any, parts: list[str], problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("part.yaml", content)
    write("problem.yaml", edited(PROBLEM, "model.init_args.constraint", "part.yaml"))

    assert fit("a") == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error


def test_file_that_cannot_be_read(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("a", "--data.file=problem.yaml/data.h5") == 1

    error = capsys.readouterr().err
    assert "problem.yaml" in error and "Traceback" not in error


def test_name_that_could_run_a_program(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("a", "--model.constraint=subprocess.Popen") == 2
    assert "subprocess.Popen" in capsys.readouterr().err


def test_report_needs_a_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Path] = []
    monkeypatch.setattr("namm.cli.report.report", reported.append)

    assert main(["report"]) == 2
    assert "namm report: the following arguments are required: folder" in capsys.readouterr().err
    assert main(["report", "runs/burgers"]) is None
    assert reported == [Path("runs/burgers")]


def test_trial_run_writes_nothing(problem: Path) -> None:
    before = files()

    assert fit("a", "--trainer.fast_dev_run=true") is None
    assert files().keys() - before.keys() == {"data.h5"}


@pytest.mark.parametrize("error", ["InputError", "ValueError", "OSError", "TypeError"])
def test_error_of_a_constructor(
    error: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine.py", "from constraints import Burgers, InputError\n\nclass Mine(Burgers):\n"
          "    def __init__(self):\n"
          f"        raise {error}('three is not two')\n")  # fmt: skip

    if error == "TypeError":  # a bug, whose traceback is wanted
        with pytest.raises(TypeError, match="^three is not two$"):
            fit("a", "--model.constraint=mine.Mine")
    else:
        assert fit("a", "--model.constraint=mine.Mine") == 1
        assert capsys.readouterr().err.startswith("namm: error: three is not two")


def test_error_with_a_cause(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.py", "from constraints import Burgers, InputError\n\nclass Mine(Burgers):\n"
          "    def __init__(self):\n"
          "        raise InputError('not a checkpoint') from RuntimeError('zip')\n")  # fmt: skip

    assert fit("a", "--model.constraint=mine.Mine") == 1
    assert capsys.readouterr().err == "namm: error: not a checkpoint\n"


def test_real_bug_keeps_its_traceback(problem: Path) -> None:
    write("bug.py", "from lightning.pytorch import Callback\n\nclass Bug(Callback):\n"
          "    def on_train_start(self, *args):\n        1 / 0\n")  # fmt: skip

    with pytest.raises(ZeroDivisionError):
        fit("a", "--trainer.callbacks+=bug.Bug")


def test_traceback_on_demand(problem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMM_TRACEBACK", "1")

    with pytest.raises(CommandError, match="no option 'lrr'"):
        fit("a", "--model.lrr=1")


def test_plugin_is_found_in_the_working_directory(problem: Path) -> None:
    write("mine.py", "from constraints import Burgers\n\nclass Mine(Burgers):\n    pass\n")

    assert fit("a", "--model.constraint=mine.Mine", "--data.constraint=mine.Mine") is None
    assert checkpoint("a")["provenance"]["constraint"]["class"] == "Mine"


def test_plugin_is_found_by_its_entry_point(
    problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("theirs.py", "from constraints import Burgers\n\nclass Theirs(Burgers):\n    pass\n")
    point = EntryPoint(name="theirs", value="theirs:Theirs", group="namm.constraints")
    monkeypatch.setattr("namm.cli.lightning.entry_points", lambda group: [point])

    assert fit("a", "--model.constraint=Theirs", "--data.constraint=Theirs") is None


def test_working_directory_does_not_hide_the_packages(problem: Path) -> None:
    Path("mdm").mkdir()
    write("mdm/__init__.py", "raise RuntimeError")

    assert fit("a") is None


def test_run_is_not_overwritten(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("a") is None
    before = files()

    assert fit("a") == 1

    error = capsys.readouterr().err
    assert "runs/toy/a already holds a run, which reached step 6" in error
    assert "--ckpt_path last" in error and "--trainer.logger.version" in error
    assert files() == before
    assert fit("b") is None


def test_last_starts_fresh_in_an_empty_folder(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("a", "--ckpt_path", "last") is None
    assert checkpoint("a")["global_step"] == 6
    assert "checkpoint" not in capsys.readouterr().err


def test_last_needs_a_folder_that_stays(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *FILES, "--trainer.logger.version=null", "--ckpt_path=last"]) == 1
    assert "--trainer.logger.version" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_last_is_needed_to_use_a_model(
    verb: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *FILES, "--ckpt_path", "last"]) == 1
    assert "There is no last checkpoint in runs/toy/a" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_weights_are_needed_to_use_a_model(
    verb: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *FILES]) == 1
    assert f"`namm {verb}` needs the weights of a trained model" in capsys.readouterr().err


def test_saved_configuration_serves_every_verb(problem: Path) -> None:
    assert fit("a", "--seed_everything", "3", "--ckpt_path", "last") is None
    saved = Path("runs/toy/a/config.yaml").read_bytes()

    for verb in ("validate", "fit"):
        command = [verb, "-c", "runs/toy/a/config.yaml", "--ckpt_path", "last"]
        assert main(command) is None
        assert Path("runs/toy/a/config.yaml").read_bytes() == saved
    for verb in ("test", "predict"):  # which `NAMM` does not define
        command = [verb, "-c", "runs/toy/a/config.yaml", "--ckpt_path", "last"]
        assert main(command) == 1
        assert Path("runs/toy/a/config.yaml").read_bytes() == saved
    assert main(["fit", "-c", "runs/toy/a/config.yaml", "--ckpt_path=last", "--seed_everything=4",
                 "--trainer.max_steps=7"]) is None  # fmt: skip
    assert checkpoint("a")["hyper_parameters"]["seed"] == 4


def test_command_line_wins_over_the_checkpoint(problem: Path) -> None:
    assert fit("a") is None
    resume = ["--ckpt_path=runs/toy/a/checkpoints/last.ckpt", "--trainer.max_steps=7"]
    assert fit("b", "--model.lr=0.5", *resume) is None
    assert checkpoint("b")["hyper_parameters"]["lr"] == 0.5


def test_seed_reaches_the_model(problem: Path) -> None:
    for run, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert fit(run, "--seed_everything", seed) is None

    a, b, c = (checkpoint(run)["hyper_parameters"]["seed"] for run in "abc")
    assert (a, b, c) == (1, 1, 2)
    assert same(checkpoint("a")["state_dict"], checkpoint("b")["state_dict"])
    assert not same(checkpoint("a")["state_dict"], checkpoint("c")["state_dict"])


def test_checkpoint_of_another_problem_needs_force(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("a") is None
    other = ["--data.constraint.substeps=3", "--model.constraint.substeps=3", "--data.file=o.h5"]
    resume = ["--ckpt_path=runs/toy/a/checkpoints/last.ckpt", "--trainer.max_steps=7"]

    assert fit("b", *other, *resume) == 1
    assert "--force" in capsys.readouterr().err
    assert fit("b", *other, *resume, "--force") is None


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_file_that_is_no_checkpoint(
    content: bytes, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.ckpt").write_bytes(content)

    assert fit("a", "--ckpt_path=bad.ckpt") == 1
    assert "bad.ckpt cannot be read as a checkpoint" in capsys.readouterr().err


def test_checkpoint_that_would_run_code(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "trap": Trap()}, "bad.ckpt")

    assert fit("a", "--ckpt_path=bad.ckpt") == 1
    assert "holds more than plain data" in capsys.readouterr().err
    assert not Path("trapped").exists()


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


def test_folder_below_a_file_is_refused(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("blocked").write_text("")
    before = files()

    assert fit("a", "--trainer.logger.save_dir=blocked/runs") == 1

    error = capsys.readouterr().err
    assert "The run folder blocked/runs/toy/a cannot be written: blocked is a file" in error
    assert files() == before


def test_read_only_folder_is_refused(
    problem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    access, write_here = os.access, os.W_OK | os.X_OK  # which root may everywhere
    monkeypatch.setattr("os.access", lambda path, mode: mode != write_here and access(path, mode))

    assert fit("a") == 1
    assert "may not be written in" in capsys.readouterr().err
    assert not Path("runs").exists() and not Path("data.h5").exists()


def test_starts_without_chatter(problem: Path) -> None:
    done = process("fit", *FILES)

    assert done.returncode == 0
    assert not done.stdout
    lines = [line for line in done.stderr.splitlines() if line and "Simulating" not in line]
    assert lines == ["`Trainer.fit` stopped: `max_steps=6` reached."]
