"""The verbs that train and test: the run folder, checkpoints and configurations."""

import os
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from namm.cli.main import main
from tests.commands import FILES, checkpoint, files, fit, same
from tests.commands import problem as problem  # a fixture


def test_trial_run_writes_nothing(problem: Path) -> None:
    before = files()

    assert fit("a", "--trainer.fast_dev_run=true") is None
    assert files().keys() - before.keys() == {"data.h5"}


def test_run_is_not_overwritten(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("a") is None
    before = files()

    assert fit("a") == 1

    error = capsys.readouterr().err
    assert "runs/toy/a already holds a run of 6 steps" in error
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
    assert f"`namm {verb}` needs trained weights" in capsys.readouterr().err


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
    assert main(["fit", "-c", "runs/toy/a/config.yaml", "--ckpt_path=last", "--ema.decay=0.8",
                 "--trainer.max_steps=7"]) is None  # fmt: skip
    assert checkpoint("a")["hyper_parameters"]["seed"] == 3
    assert checkpoint("a")["global_step"] == 7


def test_command_line_wins_over_the_checkpoint(problem: Path) -> None:
    assert fit("a") is None
    resume = ["--ckpt_path=runs/toy/a/checkpoints/last.ckpt", "--trainer.max_steps=7"]
    assert fit("b", "--model.sigma_max=0.5", *resume) is None
    assert checkpoint("b")["hyper_parameters"]["sigma_max"] == 0.5


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


def test_prediction_is_not_kept_in_memory(
    problem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, Any]] = []

    @wraps(Trainer.predict)
    def predict(trainer: Trainer, **options: Any) -> None:
        seen.append(options)

    assert fit("a") is None
    monkeypatch.setattr(Trainer, "predict", predict)
    assert main(["predict", *FILES, "--ckpt_path", "last"]) is None
    assert [options["return_predictions"] for options in seen] == [False]
    assert main(["predict", *FILES, "--ckpt_path=last", "--return_predictions=true"]) == 2
    assert "return_predictions" in capsys.readouterr().err
