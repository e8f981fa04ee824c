"""Mistakes on the command line and in its files: each is answered in a sentence."""

from pathlib import Path
from typing import Any

import pytest

from namm.cli.errors import CommandError
from namm.cli.main import main
from tests.commands import FILES, PROBLEM, edited, files, fit, write
from tests.commands import problem as problem  # a fixture

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
    "init_args alone": ({**PROBLEM, "model": {"init_args": {"sigma_max": 1}}}, [], 2,
                        ["no class_path"]),
    "class by its path": (edited(PROBLEM, "model.class_path", "namm.NAM"), [], 2,
                          ["model: there is no class 'namm.NAM'", "did you mean: namm.NAMM"]),
    "class by its name": (edited(PROBLEM, "model.init_args.constraint", {"class_path": "Burger"}),
                          [], 2, ["model.constraint:", "'Burger'", "mean: constraints.Burgers?"]),
    "class on the line": (PROBLEM, ["--model.constraint=Burger"], 2, ["'Burger'", "s.Burgers?"]),
    "class in a list": (edited(PROBLEM, "model.init_args.constraint", {
        "class_path": "Sum", "init_args": {"terms": [{"class_path": "Burger"}]}}), [], 2,
        ["model.constraint.terms[0]: there is no class 'Burger'", "constraints.Burgers?"]),
    "callback": (PROBLEM, ["--trainer.callbacks+=LogField"], 2, ["'LogField'", "namm.LogFields"]),
    "module": (edited(PROBLEM, "model.init_args.constraint.class_path", "constraint.Burgers"), [],
               2, ["no module 'constraint'", "did you mean: constraints"]),
    "base class": (edited(PROBLEM, "model.init_args.constraint", {"class_path": "namm.ICNN"}), [],
                   2, ["model.constraint: namm.ICNN is not a Constraint", "constraints.Burgers"]),
    "type": (edited(PROBLEM, "model.init_args.optimiser", {"lr": "fast"}), [], 2,
             ["model.optimiser.lr: expected float in [0, inf), got 'fast' (problem.yaml, line "]),
    "type in trainer": (PROBLEM, ["--trainer.max_epochs=many"], 2,
                        ["trainer.max_epochs: expected int or null, got 'many'"]),
    "choice": (edited(PROBLEM, "model.init_args.constraint.init_args.scheme", "eulr"), [], 2,
               ["expected 'euler' or 'crank_nicolson', got 'eulr'", "did you mean: euler?"]),
    "required": (edited(PROBLEM, "model.init_args", {}), [], 2, ["namm.NAMM needs", "mirror"]),
    "no model": ({"data": PROBLEM["data"]}, [], 2, ["namm fit needs model, in a file given with"]),
    "file": (PROBLEM, ["-c", "trainr.yaml"], 2, ["no file", "trainr.yaml", "mean: trainer.yaml?"]),
    "file of a part": (
        edited(PROBLEM, "data", "dta.yaml"), [], 2, ["there is no file 'dta.yaml'"],
    ),
    "yaml": ("model: [1\ndata: 2", [], 2, ["problem.yaml is not valid YAML", "in line 2"]),
    "empty": ("", [], 2, ["problem.yaml is no configuration"]),
    "seed twice": (
        edited(PROBLEM, "model.init_args.seed", 3), [], 2,
        ["seed is 3", "--seed_everything alone"],
    ),
    "value": (
        edited(PROBLEM, "model.init_args.constraint.init_args.viscosity", -1), [], 1,
        ["error: Burgers expects viscosity", "-1.0"],
    ),
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
            ["constraint.viscosity: expected float in (0, inf), got 'thick' (part.yaml, line 3)"],
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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Path] = []
    monkeypatch.setattr("namm.cli.report.report", lambda runs, **_: reported.append(runs))

    assert main(["report"]) == 2
    assert "namm report: the following arguments are required: folder" in capsys.readouterr().err
    assert main(["report", "runs/none"]) == 2 and not reported
    assert main(["report", str(tmp_path)]) is None
    assert reported == [tmp_path]


@pytest.mark.parametrize("error", ["InputError", "ValueError", "OSError", "TypeError"])
def test_error_of_a_constructor(
    error: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine.py", "from constraints import Burgers, InputError\n\nclass Mine(Burgers):\n"
          "    def __init__(self):\n"
          f"        raise {error}('three is not two')\n")  # fmt: skip

    assert fit("a", "--model.constraint=mine.Mine") == 1
    kind = "TypeError: " if error == "TypeError" else ""
    answer = capsys.readouterr().err
    assert answer.startswith(f"namm: error: {kind}three is not two")
    assert ("NAMM_TRACEBACK=1" in answer) == (error in ("TypeError", "ValueError"))


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
