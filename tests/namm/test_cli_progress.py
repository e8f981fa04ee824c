"""The progress of a command whose output is no terminal."""

from pathlib import Path

import pytest

from constraints import bars
from namm.cli.main import main
from tests.commands import FILES, fit
from tests.commands import problem as problem  # a fixture

SHOWN = "--trainer.enable_progress_bar=true"


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars.Lines, "seconds", 0.0)


def test_training_prints_steps_and_validation_batches(
    problem: Path, often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("a", SHOWN) is None
    out, err = capsys.readouterr()
    lines = err.splitlines()
    for step in range(1, 7):
        assert [line for line in lines if line.startswith(f"Training: {step} of 6 steps, ")]
    assert [line for line in lines if line.startswith("Simulating data.h5: 24 of 24 fields, ")]
    assert [line for line in lines if "; Validating: 1 of 1 batches, " in line]
    assert "\r" not in out + err and "it/s" not in out + err

    # a run that goes on counts from where it was
    assert fit("a", SHOWN, "--ckpt_path=last", "--trainer.max_steps=8") is None
    lines = [line for line in capsys.readouterr().err.splitlines() if "Training" in line]
    assert lines[0].startswith("Training: 7 of 8 steps, ")


def test_progress_can_be_switched_off_or_chosen(
    problem: Path, often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("a") is None  # the configuration says enable_progress_bar: false
    assert "Training" not in (text := capsys.readouterr()).err and "Simulating" not in text.err

    own = "--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"
    assert fit("b", SHOWN, own) is None
    out, err = capsys.readouterr()
    assert "Epoch 0" in out and "Training" not in err


def test_minute_of_silence(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("a", SHOWN) is None
    out, err = capsys.readouterr()
    assert " of " not in out + err
    assert main(["validate", *FILES, "--ckpt_path", "last", SHOWN]) is None
    assert " of " not in capsys.readouterr().err
