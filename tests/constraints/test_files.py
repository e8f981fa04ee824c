"""Files that appear whole, and parts that dead processes left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from constraints import whole_file


def test_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    with whole_file(file) as part:
        part.write_text("old")
        assert not file.exists() and part.parent == file.parent
    with pytest.raises(ZeroDivisionError), whole_file(file) as part:
        part.write_text("half of the n")
        1 / 0  # noqa: B018

    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["file"]


def test_parts_of_dead_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = {os.getpid(), os.getppid(), 1}
    parts = [f".a.h5.{pid}.part" for pid in (dead.pid, *alive)]
    others = [".a.h5.part", f"a.h5.{dead.pid}.part", f".a.h5.{dead.pid}.parts", ".x.tmp"]
    for name in (*parts, *others):
        (tmp_path / name).write_text("")
    with whole_file(tmp_path / "b.h5") as part:
        part.write_text("")

    assert sorted(os.listdir(tmp_path)) == sorted([*parts[1:], *others, "b.h5"])
