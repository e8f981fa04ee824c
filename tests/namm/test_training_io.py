"""Training that is stopped anywhere, and goes on as if it had not been."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from constraints import InputError
from namm.cli.main import main
from namm.training.io import AtomicCheckpointIO, KeepLast, atomic
from tests.commands import FILES, assert_identical, checkpoint, fit, process, same, stop
from tests.commands import problem as problem  # a fixture


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "file") as file:
        file.write(b"old")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "new" / "file") as file:
        file.write(b"half of the n")
        file.flush()
        1 / 0  # noqa: B018

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert (tmp_path / "new" / "file").read_bytes() == b"old"


def test_checkpoints_of_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    state = {"state_dict": {"w": torch.arange(5.0)}, "global_step": 3}
    for name in ("a.ckpt", "b.ckpt"):
        AtomicCheckpointIO().save_checkpoint(state, tmp_path / name)

    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 3


def test_checkpoint_interval_is_positive() -> None:
    with pytest.raises(InputError, match=r"every_n_train_steps.*\b0\b"):
        KeepLast(0)


@pytest.mark.parametrize("steps", [5, 6])
def test_last_checkpoint_is_of_the_last_step(steps: int, problem: Path) -> None:
    options = [f"--trainer.max_steps={steps}", "--checkpoint.every_n_train_steps=4"]
    assert fit("a", *options) is None

    state = checkpoint("a")
    assert state["global_step"] == steps
    # The raw weights are still there, although the average replaces them when training ends.
    assert not same(state["state_dict"], state["current_model_state"])


@pytest.mark.parametrize("step", range(1, 7))
def test_ctrl_c_saves_the_step_under_way(
    step: int, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    assert fit("whole") is None

    assert fit("cut", *stop(step, signal.SIGINT)) == 130

    error = capsys.readouterr().err
    assert f"runs/toy/cut/checkpoints/last.ckpt holds step {step}." in error
    assert error.splitlines()[-1].endswith(" --ckpt_path last")
    assert checkpoint("cut")["global_step"] == step
    assert signal.getsignal(signal.SIGINT) is handler
    assert fit("cut", "--ckpt_path", "last") is None
    assert_identical(checkpoint("whole"), checkpoint("cut"))


def test_ctrl_c_waits_for_the_sum_of_gradients(problem: Path) -> None:
    options = ["--trainer.accumulate_grad_batches=2", "--trainer.max_steps=5"]
    assert fit("whole", *options) is None

    assert fit("cut", *options, *stop(3, signal.SIGINT)) == 130
    assert checkpoint("cut")["global_step"] == 3
    assert fit("cut", *options, "--ckpt_path", "last") is None
    assert_identical(checkpoint("whole"), checkpoint("cut"))


def test_second_ctrl_c_leaves_the_regular_checkpoint(problem: Path) -> None:
    assert fit("whole") is None

    twice = [*stop(4, signal.SIGINT), *stop(4, signal.SIGINT)]
    assert fit("cut", *twice) == 130
    assert checkpoint("cut")["global_step"] == 2
    assert fit("cut", "--ckpt_path", "last") is None
    assert_identical(checkpoint("whole"), checkpoint("cut"))


def test_termination_saves_too(problem: Path) -> None:
    assert fit("whole") is None

    assert fit("cut", *stop(3, signal.SIGTERM)) == 143
    assert checkpoint("cut")["global_step"] == 3
    assert fit("cut", "--ckpt_path", "last") is None
    assert_identical(checkpoint("whole"), checkpoint("cut"))


def test_ctrl_c_before_the_first_step(
    problem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("datamodules.BurgersData.prepare_data", interrupt)

    assert fit("a") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "namm: fit was stopped."


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_kill_at_any_step(step: int, problem: Path) -> None:
    assert fit("whole") is None

    cut = ["fit", *FILES, "--trainer.logger.version", "cut"]
    assert process(*cut, *stop(step, signal.SIGKILL)).returncode == -signal.SIGKILL
    assert process(*cut, "--ckpt_path", "last").returncode == 0
    assert_identical(checkpoint("whole"), checkpoint("cut"))


@pytest.mark.slow
@pytest.mark.parametrize("saves", [1, 2])
def test_kill_while_a_checkpoint_is_written(saves: int, problem: Path) -> None:
    assert fit("whole") is None
    code = (
        "import os, signal\nreplace, left = os.replace, [SAVES]\n"
        "def kill(source, target):\n"
        "    if str(target).endswith('.ckpt'):\n"
        "        left[0] -= 1\n"
        "        left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(source, target)\n"
        "os.replace = kill"
    ).replace("SAVES", str(saves))

    cut = ["fit", *FILES, "--trainer.logger.version", "cut"]
    assert process(*cut, code=code).returncode == -signal.SIGKILL
    folder = Path("runs/toy/cut/checkpoints")
    assert len([*folder.glob(".last.ckpt.*.part")]) == 1
    assert (folder / "last.ckpt").exists() == (saves > 1)
    assert main([*cut, "--ckpt_path", "last"]) is None
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert_identical(checkpoint("whole"), checkpoint("cut"))


@pytest.mark.slow
def test_ctrl_c_exit_code_of_a_process(problem: Path) -> None:
    done = process("fit", *FILES, *stop(3, signal.SIGINT))

    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "  namm " + " ".join(["fit", *FILES, *(f"'{word}'" for word in stop(3, signal.SIGINT))])
        + " --ckpt_path last"
    )  # fmt: skip
    assert os.listdir("runs/toy/a/checkpoints") == ["last.ckpt"]
