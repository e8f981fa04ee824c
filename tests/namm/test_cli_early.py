"""Mistakes that show without classes are told before torch and Lightning are imported."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from namm.cli.early import SECTIONS
from namm.cli.main import main
from tests.commands import ROOT

BURGERS = str(ROOT / "configs" / "burgers.yaml")


def bomb() -> str:
    """A mapping of ten lists, each of nine times the list before."""
    names = "abcdefghij"
    lines = ["a: &a [1]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise(names)]
    return "\n".join(lines)


FILES: dict[str, tuple[str | bytes, str]] = {
    "twice": ("model: {}\nmodel: {}\n", "'model' again in line 2"),
    "twice below": ("model:\n  class_path: a\n  class_path: b\n", "'class_path' again in line 3"),
    "of itself": ("model: &a {init_args: *a}", "unconstructable recursive node in line 1"),
    "bomb": (bomb(), "values by its anchors"),
    "deep": ("model: " + "[" * 5000, "too many levels"),
    "bytes": (b"\xff\xfe\x00", "'utf-8' codec"),
    "huge": ("a: 1\n" * 200_001, "1000005 bytes, too many"),
    "date": ("model: 2024-99-99", "month must be in 1..12"),
    "no mapping": ("[1, 2]", "is no configuration"),
    "no section": ("modle: {}", "namm fit has no option 'modle' (file.yaml, line 1)"),
    "names itself": ("model: file.yaml", "file.yaml names itself"),
    "names a broken one": ("model: part.yaml", "part.yaml is not valid YAML: 'lr' again"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_cannot_be_understood(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content, wanted = FILES[name]
    data = content if isinstance(content, bytes) else content.encode()
    Path("file.yaml").write_bytes(data)
    Path("part.yaml").write_text("lr: 1\nlr: 2\n")

    assert main(["fit", "-c", "file.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and wanted in error
    assert error.count("\n") <= 2


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: path.symlink_to(path), "there is no file"),
    ],
)
def test_path_that_is_no_file(
    make: Callable[[Path], None],
    wanted: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(path := tmp_path / "file.yaml")
    for argv in (["fit", "-c", str(path)], ["run", str(path)], ["check", str(path)]):
        assert main(argv) == 2
        assert wanted in capsys.readouterr().err


COMMANDS = {
    "verb": (["fitt"], "did you mean: fit"),
    "no problem": (["run"], "required: problem"),
    "problem": (["run", "none.yaml"], "no file 'none.yaml'"),
    "scale": (["run", BURGERS, "--scale=dmo"], "did you mean: demo?"),
    "beginning of an option": (["run", BURGERS, "--scal=demo"], "unrecognized arguments: --scal"),
    "section": (["fit", "--modle.lr=3"], "no option 'modle.lr'.\n  did you mean: model?"),
    "stage": (["test", "-c", f"{BURGERS}::inverse/dp"], "did you mean: inverse/dps"),
    "no stage": (["fit", "-c", BURGERS], f"as {BURGERS}::namm"),
    "no file": (["predict", "--config=none.yaml"], "no file 'none.yaml'"),
    "folder": (["report", "none"], "namm report: there is no folder 'none'"),
    "no folder": (["ship", "--half"], "required: runs, folder"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_mistake_is_told_before_the_imports(name: str, tmp_path: Path) -> None:
    argv, wanted = COMMANDS[name]
    program = (
        "import sys; from namm.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'jsonargparse', 'numpy'} & {*sys.modules};"
        "print(heavy or 'light'); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *argv]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert (run.returncode, run.stdout) == (2, "light\n"), run.stderr
    assert wanted in run.stderr and run.stderr.count("\n") <= 2
    assert not [*tmp_path.iterdir()]


def test_sections_are_those_of_the_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, names in SECTIONS.items():
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        options = re.findall(r"--(\w+)", capsys.readouterr().out)
        assert {*options} == {*names}, verb
