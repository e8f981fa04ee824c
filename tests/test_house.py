"""The house rules that a program can check: a light start, words, and sizes of files."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("constraints", "datamodules", "inverse", "mdm", "namm")
WHAT = re.compile(r"\W*what(ever)?\b", re.IGNORECASE)
ARGUMENT = re.compile(r" *\w+: what(ever)?\b", re.IGNORECASE)  # in a list of arguments


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Yields the path from the root and the text of each Python file in folders."""

    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), file.read_text("utf-8")


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_help_loads_neither_torch_nor_lightning(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "namm", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "usage: namm" in run.stdout
    assert "namm" in loaded and not loaded & {"torch", "lightning", "jsonargparse", "numpy"}


def heads(source: str) -> Iterator[str]:
    """Yields the docstrings of a file, and the first string of each error that it raises."""

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            parts = ast.walk(node.exc.args[0])
            yield next((x.value for x in parts if isinstance(getattr(x, "value", 0), str)), "")


def test_no_docstring_message_or_argument_begins_with_what() -> None:
    found = [
        f"{file}: {line}"
        for file, source in sources(*PACKAGES, "benchmarks", "tests")
        if file != "tests/test_house.py"
        for head in heads(source)
        for k, line in enumerate(head.splitlines())
        if (WHAT.match(line) if k == 0 else ARGUMENT.match(line))
    ]
    assert not found, "\n".join(found)


def test_no_heading_begins_with_what() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {line}"
        for file in documents()
        for line in file.read_text("utf-8").splitlines()
        if line.startswith("#") and WHAT.match(line)
    ]
    assert not found, "\n".join(found)


def test_planted_what_is_caught() -> None:
    source = (
        '"""Whatever it is."""\nraise ValueError(f"What is {x}?")\nraise ValueError("No: what")'
    )
    assert [bool(WHAT.match(head)) for head in heads(source)] == [True, True, False]
    assert WHAT.match("## What the maps do") and not WHAT.match("# Somewhat")
    assert ARGUMENT.match("    state: What it holds.") and not ARGUMENT.match("  x: Say what.")


def test_lines_of_raise_statements_are_few() -> None:
    lines = [
        node.end_lineno - node.lineno + 1
        for _, source in sources(*PACKAGES)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Raise) and node.end_lineno
    ]
    assert sum(lines) <= 350


@pytest.mark.parametrize(
    ("folders", "most"), [((*PACKAGES, "benchmarks"), 300), (("tests",), 400)]
)
def test_files_are_short(folders: tuple[str, ...], most: int) -> None:
    lengths = {file: len(source.splitlines()) for file, source in sources(*folders)}
    assert not {file: n for file, n in lengths.items() if n > most}


def test_configurations_are_few() -> None:
    assert len([*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "configs").rglob("*.yml")]) <= 40
