"""Runs a case in process, and says how it was answered."""

import contextlib
import io
import os
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from constraints import Burgers
from mdm import DPMSolver, Generation
from namm.cli.main import main
from tests.commands import PROBLEM, TRAINER, write
from tests.fuzz.grammar import DAMAGES, Case
from tests.problems import make_trainer, tiny_data, tiny_denoiser

LIMIT = 20  # seconds of a case
BAD = ("silent", "traceback", "hung")
KEPT = {("toy", "namm"), ("stages", "namm")}  # the runs of the template


class Hung(BaseException):
    """A case took longer than its limit."""


@contextlib.contextmanager
def watchdog(seconds: int) -> Iterator[None]:
    """Raises `Hung` after some seconds."""

    def stop(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def lay_out(case: Case, template: Path, folder: Path) -> list[str]:
    """Makes the files of a case, and returns its command."""
    shutil.copytree(template, folder, symlinks=True)
    write(folder / "problem.yaml", case.config)
    file, damage = folder / case.damage[0], case.damage[1]
    if damage:
        file.write_bytes(DAMAGES[damage](file.read_bytes(), random.Random(0)))
    verb, *words = case.argv or [""]
    needs_files = verb in ("fit", "validate", "test", "predict") and "-c" not in words
    return [verb, *(["-c", "trainer.yaml", "-c", "problem.yaml"] if needs_files else []), *words]


def answer(argv: list[str]) -> tuple[str, str]:
    """How a command in the working directory was answered, and its words."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with watchdog(LIMIT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    except Hung:
        return "hung", ""
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return verdict(code or 0, err.getvalue())


def verdict(code: int, err: str) -> tuple[str, str]:
    """How a command was answered, by its exit code and its words."""
    lines = [line for line in err.splitlines() if line.startswith("namm: error: ")]
    if code == 0:
        return "accepted", err
    sentence = len(lines) == 1 and "Traceback" not in err and len(lines[0]) < 4000
    return ("clear" if sentence else "traceback"), err


def kept(case: Case) -> bool:
    """Whether an accepted command did what it says: its value stands in the record of the run."""
    if case.argv[:1] != ["fit"] or not case.key:
        return True
    (record,) = (path for path in Path().rglob("config.yaml") if path.parts[1:3] not in KEPT)
    recorded = yaml.safe_load(record.read_text())
    for name in re.split(r"\.(?:init_args\.)?", case.key):
        recorded = recorded.get("init_args", recorded) if name not in recorded else recorded
        recorded = recorded[name]
    given = case.value
    with contextlib.suppress(yaml.YAMLError):
        given = yaml.safe_load(given) if isinstance(given, str) else given
    number = isinstance(given, int | float) and not isinstance(given, bool)
    return float(recorded) == given if number else str(given) in str(recorded)


def judge(case: Case, template: Path, folder: Path) -> tuple[str, str]:
    """Runs a case: `clear`, `accepted`, `silent`, `traceback` or `hung`, and its words."""
    argv = lay_out(case, template, folder)
    os.chdir(folder)
    found, words = answer(argv)
    if found == "accepted":
        try:
            found = "accepted" if kept(case) else "silent"
        except Exception as error:
            return "silent", f"{error!r} {words}"
    return found, words


def tally(found: list[tuple[Case, str, str]]) -> str:
    """The number of cases by answer, and the cases that were answered badly."""
    counts = Counter(kind for _, kind, _ in found)
    bad = [row for row in found if row[1] in BAD]
    lines = [f"{kind}: {case.argv} {case.key}={case.value!r} {case.damage}\n    {words[:600]}"
             for case, kind, words in bad]  # fmt: skip
    return "\n".join([str(dict(counts)), *lines])


def set_up(folder: Path) -> Path:
    """Makes the folder from which each case begins: a training, a score and a problem."""
    folder.mkdir()
    before = os.getcwd()
    os.chdir(folder)
    try:
        trainer = {**TRAINER["trainer"], "max_steps": 1, "max_epochs": 1, "val_check_interval": 1}
        write("trainer.yaml", {**TRAINER, "trainer": trainer})
        write("problem.yaml", PROBLEM)
        logger = {"init_args": {"save_dir": "runs", "name": "stages", "version": "namm"}}
        stage = {"verb": "fit", **PROBLEM, **TRAINER, "trainer": {**trainer, "logger": logger}}
        write("stages.yaml", {"stages": {"namm": stage}})
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["fit", "-c", "trainer.yaml", "-c", "problem.yaml"]) is None
            assert main(["run", "stages.yaml"]) is None
        shutil.copy("runs/toy/a/checkpoints/last.ckpt", "last.ckpt")
        shutil.copytree("runs/toy/a", "runs/toy/namm")
        shutil.rmtree("runs/toy/a")
        data = tiny_data(folder, batch_size=4)
        stage = Generation(tiny_denoiser(), Burgers(), sampler=DPMSolver(2), samples=4)
        make_trainer(folder / "scored" / "score").test(stage, data, verbose=False)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which each case begins."""
    return set_up(tmp_path_factory.mktemp("fuzz") / "template")


def run(cases: list[Case], template: Path, folder: Path) -> list[tuple[Case, str, str]]:
    """Runs cases, each in a folder of its own."""
    before, rows = os.getcwd(), []
    for number, case in enumerate(cases):
        place = folder / str(number)
        try:
            rows.append((case, *judge(case, template, place)))
        finally:
            os.chdir(before)
            shutil.rmtree(place, ignore_errors=True)
    return rows
