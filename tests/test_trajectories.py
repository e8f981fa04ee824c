"""The whole chain of a task of trajectories, from simulated motion to a report."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from namm.cli.configs import Problem
from namm.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


# the command line
FIT = {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1}


SMALL = {"sizes": {"train": 32, "val": 4, "test": 8}, "batch_size": 16}


NET = {"channels": 128, "width": 8, "layers": 1}


SHORT = {"init_args": {"steps": 3}}


# a scale of a second or so
TINY: dict[str, Any] = {
    "base": "motion.yaml",
    "shared": {
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    },
    "blocks": {
        "point": {"data": {"init_args": SMALL}},
        "arm": {"data": {"init_args": SMALL}},
        "mdm": {
            "model": {"init_args": {"denoiser": {"init_args": {"net": {"init_args": NET}}}}},
            "trainer": FIT,
        },
        "generation": {"model": {"init_args": {"samples": 8}}},
        "inverse": {"model": {"init_args": {"samples": 4}}},
        **{
            name: {"model": {"init_args": {"solver": {"init_args": {"transition": SHORT}}}}}
            for name in ("dps", "dsg", "trust")
        },
    },
}


@pytest.mark.parametrize("kind", ["point", pytest.param("arm", marks=pytest.mark.slow)])
def test_run_goes_from_data_to_a_report(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    stages = Problem(Path("configs/motion.yaml")).stages
    mine = [name for name, stage in stages.items() if kind in stage.get("blocks", [kind])]
    # one solver for each task
    tasks = [name.split("/")[0] for name in mine if name.endswith("/trust")]
    for task, solver in zip(tasks, ("dps", "dsg", "trust"), strict=False):
        for other in {f"{task}/{s}" for s in ("dps", "dsg", "trust")} - {f"{task}/{solver}"}:
            mine.remove(other)
    stages = {name: stage if name in mine else None for name, stage in stages.items()}
    content = Path("configs/motion.yaml").read_text().split("\nstages:")[0]
    Path("configs/motion.yaml").write_text(f"{content}\nstages: {json.dumps(stages)}\n")
    Path("configs/motion.tiny.yaml").write_text(yaml.safe_dump(TINY))

    assert main(["run", "configs/motion", "--scale", "tiny"]) is None

    runs = Path("runs/motion-tiny")
    rows = json.loads((runs / "results.json").read_text())["rows"]
    assert {row["task"] for row in rows} == {f"generation of {kind}", *tasks}
    assert all(math.isfinite(row["value"]) for row in rows)
    assert (runs / "report.png").exists()
