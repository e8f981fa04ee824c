"""A tiny problem of four stages and a report, for the tests of `namm run`."""

from pathlib import Path
from typing import Any

import pytest

from tests.commands import PROBLEM, TRAINER, checkpoint, edited, write
from tests.commands import problem as problem  # a fixture

STAGES: dict[str, Any] = {
    "first": {"verb": "fit", "blocks": ["model"]},
    "check": {
        "verb": "validate",
        "blocks": ["model"],
        "ckpt_path": "{runs}/first/checkpoints/last.ckpt",
    },
    "second": {
        "verb": "fit",
        "blocks": ["model", "second"],
        "model": {"init_args": {"init_from": "{runs}/first/checkpoints/last.ckpt"}},
    },
    "third": {"verb": "fit", "blocks": ["model"]},
    "report": {"verb": "report"},
}


FILE = Path("configs/toy.yaml")


SCALE = Path("configs/toy.demo.yaml")


RUN = ["run", "configs/toy", "--scale", "demo"]


RUNS = Path("runs/toy-demo")


def write_stages(stages: dict[str, Any]) -> None:
    blocks = {
        "model": {"model": PROBLEM["model"]},
        "second": {"trainer": {"max_steps": 100}},
    }
    shared = {"data": PROBLEM["data"]}
    content = {"base": "trainer.yaml", "shared": shared, "blocks": blocks, "stages": stages}
    write(FILE, content)


def write_scale(steps: int, second: int) -> None:
    blocks = {"second": {"trainer": {"max_steps": second}}}
    shared = {"trainer": {"max_steps": steps}}
    write(SCALE, {"base": "toy.yaml", "shared": shared, "blocks": blocks})


@pytest.fixture
def stages(problem: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    r"""A problem with four stages and a report. Returns the folders reported on."""
    trainer = edited(TRAINER, "trainer.logger.init_args", {"save_dir": "runs"})
    write("configs/trainer.yaml", {"shared": edited(trainer, "trainer.max_steps", 100)})
    write_stages(STAGES)
    write_scale(3, 2)
    reported: list[Path] = []
    monkeypatch.setattr("namm.cli.runner.report", lambda runs, **_: reported.append(runs))
    return reported


def step(stage: str) -> int:
    return checkpoint(stage, RUNS)["global_step"]
