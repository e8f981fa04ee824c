"""The whole chain of a task of trajectories, from simulated motion to a report."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from namm.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


# the command line
FIT = {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1}


SMALL = {"sizes": {"train": 32, "val": 4, "test": 8}, "batch_size": 16}


NET = {"class_path": "mdm.MLP", "init_args": {"channels": 128, "width": 8, "layers": 1}}


DENOISER = {"class_path": "mdm.DiffusersDenoiser", "init_args": {"net": NET}}


SHORT = {"class_path": "mdm.DDIM", "init_args": {"steps": 3}}


# a scale of a second or so
TINY: dict[str, dict[str, Any]] = {
    "trainer": {
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    },
    "data": {"data": {"class_path": "datamodules.PointMassData", "init_args": SMALL}},
    "arm": {"data": {"class_path": "datamodules.ArmData", "init_args": SMALL}},
    "mdm": {
        "model": {
            "class_path": "mdm.MDM",
            "init_args": {"denoiser": DENOISER},
        },
        "trainer": FIT,
    },
    "generation": {"model": {"class_path": "mdm.Generation", "init_args": {"samples": 8}}},
    "inverse": {"model": {"class_path": "inverse.Inverse", "init_args": {"samples": 4}}},
    **{
        name.lower(): {
            "model": {
                "class_path": "inverse.Inverse",
                "init_args": {
                    "solver": {
                        "class_path": f"inverse.{name}",
                        "init_args": {"transition": SHORT},
                    }
                },
            }
        }
        for name in ("DPS", "DSG", "Trust")
    },
}


@pytest.mark.parametrize("kind", ["point", pytest.param("arm", marks=pytest.mark.slow)])
def test_run_goes_from_data_to_a_report(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs" / "motion", "configs/motion")
    shutil.copy(ROOT / "configs" / "trainer.yaml", "configs")
    folder = Path("configs/motion/tiny")
    folder.mkdir()
    for name, content in TINY.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    file = Path("configs/motion/run.yaml")
    stages = yaml.safe_load(file.read_text())["stages"]
    data = stages[kind]["configs"][0]
    mine = {name: s for name, s in stages.items() if data in s.get("configs", [data])}
    # one solver for each task
    tasks = [name.split("/")[0] for name in mine if name.endswith("/trust")]
    for task, solver in zip(tasks, ("dps", "dsg", "trust"), strict=False):
        for other in {f"{task}/{s}" for s in ("dps", "dsg", "trust")} - {f"{task}/{solver}"}:
            del mine[other]
    file.write_text(yaml.safe_dump({"stages": mine}, sort_keys=False))

    assert main(["run", "configs/motion", "--scale", "tiny"]) is None

    runs = Path("runs/motion-tiny")
    rows = json.loads((runs / "results.json").read_text())["rows"]
    assert {row["task"] for row in rows} == {f"generation of {kind}", *tasks}
    assert all(math.isfinite(row["value"]) for row in rows)
    assert (runs / "report.png").exists()
