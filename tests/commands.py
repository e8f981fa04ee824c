"""A tiny problem for the tests of the command line, and ways to run commands on it."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from namm.cli.main import main


def stop(step: int, number: int) -> list[str]:
    r"""Returns the options by which a process sends itself a signal at the start of a step."""
    return [f"--trainer.callbacks+={{class_path: plugin.Signal, init_args: {{step: {step}, "
            f"signal: {int(number)}}}}}"]  # fmt: skip


def assert_identical(a: dict[str, Any], b: dict[str, Any]) -> None:
    r"""Asserts that two trainings ended with the same weights, averages and optimiser."""
    assert a["global_step"] == b["global_step"]
    assert same(a["state_dict"], b["state_dict"])
    assert same(a["current_model_state"], b["current_model_state"])
    for key, state in a["optimizer_states"][0]["state"].items():
        assert same(state, b["optimizer_states"][0]["state"][key])


ROOT = Path(__file__).resolve().parents[1]


BURGERS = {"class_path": "constraints.Burgers", "init_args": {"substeps": 2}}


TRAINER: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 6,
        "check_val_every_n_epoch": None,
        "val_check_interval": 4,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": "toy", "version": "a"},
        },
    },
    "checkpoint": {"every_n_train_steps": 2},
    "ema": {"decay": 0.9},
}


PROBLEM: dict[str, Any] = {
    "model": {
        "class_path": "namm.NAMM",
        "init_args": {
            "constraint": BURGERS,
            "mirror": {
                "class_path": "namm.MirrorMap",
                "init_args": {
                    "forward_map": {
                        "class_path": "namm.ICNN",
                        "init_args": {"width": 2, "layers": 1},
                    },
                    "inverse_map": {
                        "class_path": "namm.PatchNet",
                        "init_args": {"patch": 4, "width": 8, "blocks": 1, "detail": 2},
                    },
                },
            },
        },
    },
    "data": {
        "class_path": "datamodules.BurgersData",
        "init_args": {
            "constraint": BURGERS,
            "file": "data.h5",
            "sizes": {"train": 16, "val": 4, "test": 4},
            "points": 16,
            "frames": 8,
            "batch_size": 4,
        },
    },
}


FILES = ["-c", "trainer.yaml", "-c", "problem.yaml"]


# A callback that ends its process, or asks it to end, at the beginning of a step.
PLUGIN = """
import os
from lightning.pytorch import Callback

class Signal(Callback):
    def __init__(self, step: int, signal: int) -> None:
        self.step, self.signal = step, signal

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step + 1 == self.step:
            self.step = 0  # once: a step may take several batches
            os.kill(os.getpid(), self.signal)
"""


def edited(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    r"""Returns a copy of a configuration with the value at a dotted path set."""
    config = copy.deepcopy(config)
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[key] = value
    return config


def write(file: str | Path, content: Any) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )


def files() -> dict[str, int]:
    r"""Returns all files below the working directory and when they were written."""
    return {str(path): path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}


def contents(*but: str) -> dict[str, bytes]:
    r"""Returns the content of all files below the working directory, but for some names."""
    paths = [path for path in Path().rglob("*") if path.is_file() and path.name not in but]
    return {str(path): path.read_bytes() for path in paths}


def checkpoint(run: str, runs: str | Path = "runs/toy") -> dict[str, Any]:
    return torch.load(Path(runs, run, "checkpoints/last.ckpt"), weights_only=True)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    r"""Returns whether two sets of weights agree in every bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def fit(run: str, *options: str) -> int | None:
    return main(["fit", *FILES, "--trainer.logger.version", run, *options])


def process(*argv: str, code: str = "") -> subprocess.CompletedProcess[str]:
    r"""Runs a command in a process of its own, after some code if there is any."""
    script = f"{code}\nimport sys\nfrom namm.cli.main import main\nsys.exit(main())"
    start = ["-c", script] if code else ["-m", "namm"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, *argv], capture_output=True, text=True, env=environment
    )


@contextmanager
def busy(folder: Path) -> Iterator[subprocess.Popen[str]]:
    r"""Keeps the lock of a folder in another process, which is killed at the end."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom namm.training.folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    r"""A working directory with the configurations of a tiny problem."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write("trainer.yaml", TRAINER)
    write("problem.yaml", PROBLEM)
    write("plugin.py", PLUGIN)
    yield tmp_path
    for name, module in [*sys.modules.items()]:  # the next test has other plug-ins
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
