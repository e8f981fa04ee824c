r"""The whole chain of the Burgers problem, through `namm run`, on tiny networks."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from namm.cli.main import main

CONFIGS = Path(__file__).parents[1] / "configs"
ROW = {
    "task", "method", "protocol", "metric", "value", "ci95", "n", "seed",
    "calls", "vjps", "flops", "seconds",
}  # fmt: skip
GRID, FRAMES = 16, 16
TINY = {
    "trainer": {"trainer": {"log_every_n_steps": 1, "enable_progress_bar": False}},
    "data": {
        "data": {
            "class_path": "datamodules.BurgersData",
            "init_args": {
                "constraint": "constraint.yaml", "file": "data/tiny.h5", "points": GRID,
                "frames": FRAMES, "sizes": {"train": 32, "val": 8, "test": 16}, "batch_size": 4,
            },
        }
    },
    "namm": {
        "model": {
            "class_path": "namm.NAMM",
            "init_args": {
                "constraint": "constraint.yaml",
                "mirror": {
                    "class_path": "namm.MirrorMap",
                    "init_args": {
                        "forward_map": {
                            "class_path": "namm.ICNN", "init_args": {"width": 4, "layers": 1}
                        },
                        "inverse_map": {
                            "class_path": "namm.PatchNet",
                            "init_args": {"width": 8, "blocks": 1, "detail": 4, "finish": 0},
                        },
                    },
                },
            },
        },
        "trainer": {"max_epochs": None, "max_steps": 6, "check_val_every_n_epoch": 1},
    },
    "mdm": {
        "model": {
            "class_path": "mdm.MDM",
            "init_args": {
                "constraint": "constraint.yaml",
                "denoiser": {
                    "class_path": "mdm.DiffusersDenoiser",
                    "init_args": {
                        "net": {
                            "class_path": "diffusers.UNet2DModel",
                            "init_args": {
                                "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
                                "block_out_channels": [8, 8], "norm_num_groups": 4,
                                "down_block_types": ["DownBlock2D", "DownBlock2D"],
                                "up_block_types": ["UpBlock2D", "UpBlock2D"],
                            },
                        },
                        "patch": 2,
                    },
                },
                "sampler": {"class_path": "mdm.DPMSolver", "init_args": {"steps": 3}},
                "val_samples": 4, "warmup": 0,
            },
        },
        "data": {"class_path": "datamodules.BurgersData", "init_args": {"batch_size": 4}},
        "trainer": {"max_epochs": None, "max_steps": 6, "check_val_every_n_epoch": 1},
    },
    "samples": {
        "data": {
            "class_path": "datamodules.BurgersData",
            "init_args": {"predict_sizes": {"train": 8, "val": 4}},
        }
    },
    "finetune": {"trainer": {"max_steps": 3}},
    "generation": {
        "model": {
            "class_path": "mdm.Generation",
            "init_args": {
                "constraint": "constraint.yaml", "samples": 6, "batch_samples": 4,
                "sampler": {"class_path": "mdm.DPMSolver", "init_args": {"steps": 3}},
            },
        }
    },
    "inverse": {
        "model": {
            "class_path": "inverse.Inverse",
            "init_args": {
                "constraint": "constraint.yaml",
                "operator": {
                    "class_path": "inverse.Select",
                    "init_args": {"dim": -1, "index": 2, "size": FRAMES, "std": 0.2},
                },
                "solver": {
                    "class_path": "inverse.DPS",
                    "init_args": {
                        "transition": {"class_path": "mdm.DDIM", "init_args": {"steps": 3}}
                    },
                },
                "fields": 2, "samples": 2,
            },
        }
    },
    "guided": {
        "model": {
            "class_path": "inverse.Inverse",
            "init_args": {
                "solver": {
                    "class_path": "inverse.DPS", "init_args": {"constraint": "constraint.yaml"}
                }
            },
        }
    },
}  # fmt: skip


def write_tiny(folder: Path) -> Path:
    r"""Copies the configurations into a folder, with a scale of seconds for Burgers, and returns
    the folder of that problem."""
    shutil.copytree(CONFIGS, folder / "configs")
    scale = folder / "configs" / "burgers" / "tiny"
    scale.mkdir()
    shutil.copy(scale.parent / "constraint.yaml", scale)
    for name, content in TINY.items():
        (scale / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return scale.parent


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""A folder with the configurations of Burgers and a scale of seconds, where all has run."""
    folder = tmp_path_factory.mktemp("chain")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "configs/burgers", "--scale", "tiny"]) is None
    return folder


def test_results_have_every_method_with_its_guards(problem: Path) -> None:
    rows = json.loads((problem / "runs/burgers-tiny/results.json").read_text())["rows"]

    assert all(set(row) == ROW for row in rows)
    guards = {"distance", "mmd", "spread", "spectrum", "cycle"}
    for task, methods in (
        ("generation", {"DM", "DM, then f(g(.))", "MDM", "MDM, fine-tuned"}),
        ("inverse", {"DPS", "constraint-guided DPS", "mirror-DPS", "mirror-PiGDM"}),
    ):
        mine = [row for row in rows if row["task"] == task]
        assert {row["method"] for row in mine} == methods | {"data"}
        for method in methods:
            metrics = {row["metric"] for row in mine if row["method"] == method}
            more = {"chi2", "relative_error", "rejected"} if task == "inverse" else set()
            more |= {"unsolved"} if method == "mirror-PiGDM" else set()
            assert metrics == guards | more
    floor = next(row for row in rows if row["method"] == "data")
    assert floor["value"] < 1e-6 and floor["n"] == 16


def test_costs_are_those_of_the_method(problem: Path) -> None:
    rows = json.loads((problem / "runs/burgers-tiny/results.json").read_text())["rows"]
    cost = {
        row["method"]: (row["calls"], row["vjps"], row["n"])
        for row in rows
        if row["metric"] == "distance"
    }

    assert cost["DM"] == cost["MDM"] == (3, 0, 6)
    assert cost["DPS"] == cost["mirror-DPS"] == (3, 3, 4)
    assert cost["mirror-PiGDM"] == (20, 20, 4)


def test_plain_model_has_the_operations_of_the_other_trainings(problem: Path) -> None:
    trained = json.loads((problem / "runs/burgers-tiny/results.json").read_text())["training"]
    budget = sum(trained[stage]["flops"] for stage in ("namm", "mdm", "finetune"))

    # whole steps: at most half a step more or less
    assert abs(trained["dm"]["flops"] - budget) <= trained["dm"]["flops"] / trained["dm"]["steps"]


def test_fine_tuning_moves_the_inverse_map_alone(problem: Path) -> None:
    runs = problem / "runs/burgers-tiny"
    first, second = (
        torch.load(runs / stage / "checkpoints/last.ckpt", weights_only=True)
        for stage in ("namm", "finetune")
    )
    # it starts from the average
    before, after = first["state_dict"], second["current_model_state"]

    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved and all(k.startswith("mirror.inverse_map") for k in moved)


def test_report_says_what_was_measured(problem: Path) -> None:
    folder = problem / "runs/burgers-tiny"
    text = (folder / "report.md").read_text()

    assert "| DM, then f(g(.)) | clean |" in text and "| finetune | 3 |" in text
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "generation/dm/fields.png").exists()


def test_finished_stages_are_skipped(
    problem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(problem)
    before = (problem / "runs/burgers-tiny/dm/checkpoints/last.ckpt").stat().st_mtime_ns

    assert main(["run", "configs/burgers", "--scale", "tiny"]) is None
    assert capsys.readouterr().out.count("skipped") == 13
    after = (problem / "runs/burgers-tiny/dm/checkpoints/last.ckpt").stat().st_mtime_ns
    assert before == after


@pytest.mark.slow  # 1000 calls
def test_published_protocol_scores_both_ends_of_one_run(
    problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(problem)
    configs = ["../trainer", "tiny/trainer", "data", "tiny/data", "inverse", "tiny/inverse"]
    argv = [arg for c in [*configs, "published"] for arg in ("-c", f"configs/burgers/{c}.yaml")]
    checkpoint = "runs/burgers-tiny/dm/checkpoints/last.ckpt"
    argv += ["--model.init_args.denoiser.init_args.checkpoint", checkpoint]
    argv += ["--model.init_args.samples=3", "--trainer.logger.name", "burgers-tiny"]

    main(["test", *argv, "--trainer.logger.version", "published"])

    rows = json.loads((problem / "runs/burgers-tiny/published/results.json").read_text())["rows"]
    ends = {row["protocol"]: row for row in rows if row["metric"] == "chi2"}
    assert set(ends) == {"clean", "published"}
    assert ends["clean"]["calls"] == ends["published"]["calls"] == 1000
