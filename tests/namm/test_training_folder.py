"""The locks of folders, and the logs of commands that came to nothing."""

import os
import signal
from pathlib import Path

import pytest

from constraints import InputError
from namm.training.folder import LOCK, check_absent, fresh_logs, locked
from tests.commands import busy


def test_folder_is_locked_for_other_processes_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with locked(folder), locked(folder):  # one command may ask twice
        assert os.listdir(folder) == [LOCK]
    assert os.listdir(tmp_path) == []
    with busy(folder) as other:
        with pytest.raises(InputError, match=rf"process {other.pid}\b.*runs/a"), locked(folder):
            pytest.fail("two processes work in one folder")
        with locked(tmp_path / "runs" / "b"):
            (tmp_path / "runs" / "b" / "kept").write_text("")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "runs", "runs/a", f"runs/a/{LOCK}", "runs/b", "runs/b/kept",
    ]  # fmt: skip


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with busy(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / LOCK).exists()
        with locked(tmp_path):
            pass
    assert os.listdir(tmp_path) == []


def test_lock_is_not_kept_by_a_process_that_was_forked(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:  # it lives until the pipe ends
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    with busy(tmp_path):
        pass
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    os.close(reader)


def test_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("words")
    (tmp_path / LOCK).symlink_to("mine")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path):
        pytest.fail("a link was followed")
    assert (tmp_path / "mine").read_text() == "words"


@pytest.mark.parametrize("option", [False, True, None])
def test_file_that_is_there_is_named(tmp_path: Path, option: bool | None) -> None:
    (tmp_path / "b").write_text("")
    files = [tmp_path / "a", tmp_path / "b"]
    if option:
        check_absent(files, option)
        return
    with pytest.raises(InputError, match=r"b is there already") as refusal:
        check_absent(files, option)
    assert ("--replace" in str(refusal.value)) == (option is not None)


@pytest.mark.parametrize("worked", [False, True])
def test_logs_of_a_command_without_work_are_removed(tmp_path: Path, worked: bool) -> None:
    old, new, other = (
        tmp_path / f"{k}" for k in ("events.out.tfevents.1", "events.out.tfevents.2", "x")
    )
    old.write_text("")
    with pytest.raises(ZeroDivisionError), fresh_logs(tmp_path, lambda: worked):
        new.write_text("")
        other.write_text("")
        1 / 0  # noqa: B018
    assert old.exists() and other.exists() and new.exists() == worked
