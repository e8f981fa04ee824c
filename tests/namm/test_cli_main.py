"""The command line: help, verbs, plug-ins and a quiet start."""

from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest

from namm.cli.main import VERBS, main
from tests.commands import FILES, checkpoint, fit, process, write
from tests.commands import problem as problem  # a fixture


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


def test_plugin_is_found_in_the_working_directory(problem: Path) -> None:
    write("mine.py", "from constraints import Burgers\n\nclass Mine(Burgers):\n    pass\n")

    assert fit("a", "--model.constraint=mine.Mine", "--data.constraint=mine.Mine") is None
    assert checkpoint("a")["provenance"]["constraint"]["class"] == "Mine"


def test_plugin_is_found_by_its_entry_point(
    problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("theirs.py", "from constraints import Burgers\n\nclass Theirs(Burgers):\n    pass\n")
    point = EntryPoint(name="theirs", value="theirs:Theirs", group="namm.constraints")
    monkeypatch.setattr("namm.cli.plugins.entry_points", lambda group: [point])

    assert fit("a", "--model.constraint=Theirs", "--data.constraint=Theirs") is None


def test_working_directory_does_not_hide_the_packages(problem: Path) -> None:
    Path("mdm").mkdir()
    write("mdm/__init__.py", "raise RuntimeError")

    assert fit("a") is None


def test_starts_without_chatter(problem: Path) -> None:
    done = process("fit", *FILES)

    assert done.returncode == 0
    assert not done.stdout
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines == ["`Trainer.fit` stopped: `max_steps=6` reached."]


def test_version_is_the_version_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) is None
    assert capsys.readouterr().out == f"namm {version('namm')}\n"


def test_verb_that_is_none_brings_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["tset"]) == 2
    assert "there is no verb 'tset'" in (error := capsys.readouterr().err)
    assert error.endswith("did you mean: test?\n")
