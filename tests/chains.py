"""Tiny networks and settings for the whole chain of a problem, which several tests run."""

import shutil
from pathlib import Path

import yaml

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
