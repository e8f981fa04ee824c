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


# the scale of Burgers
TINY = {
    "base": "burgers.yaml",
    "shared": {
        "trainer": {"log_every_n_steps": 1, "enable_progress_bar": False},
        "data": {
            "init_args": {
                "file": "data/tiny.h5", "points": GRID, "frames": FRAMES,
                "sizes": {"train": 32, "val": 8, "test": 16}, "batch_size": 4,
            },
        },
    },
    "blocks": {
        "namm": {
            "model": {
                "init_args": {
                    "mirror": {
                        "init_args": {
                            "forward_map": {"init_args": {"width": 4, "layers": 1}},
                            "inverse_map": {
                                "class_path": "namm.PatchNet",
                                "init_args": {
                                    "width": 8, "blocks": 1, "detail": 4, "finish": 0,
                                },
                            },
                        },
                    },
                },
            },
            "trainer": {"max_epochs": None, "max_steps": 6, "check_val_every_n_epoch": 1},
        },
        "mdm": {
            "model": {
                "init_args": {
                    "denoiser": {
                        "init_args": {
                            "net": {
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
                    "val_samples": 4, "optimiser": {"warmup": 0},
                },
            },
            "data": {"init_args": {"batch_size": 4}},
            "trainer": {"max_epochs": None, "max_steps": 6, "check_val_every_n_epoch": 1},
        },
        "samples": {"data": {"init_args": {"predict_sizes": {"train": 8, "val": 4}}}},
        "finetune": {"trainer": {"max_steps": 3}},
        "generation": {
            "model": {
                "init_args": {
                    "samples": 6, "batch_samples": 4, "sampler": {"init_args": {"steps": 3}},
                },
            }
        },
        "inverse": {
            "model": {
                "init_args": {
                    "operator": {"init_args": {"index": 2, "size": FRAMES}},
                    "solver": {"init_args": {"transition": {"init_args": {"steps": 3}}}},
                    "fields": 2, "samples": 2,
                },
            }
        },
    },
}  # fmt: skip


def write_tiny(folder: Path) -> Path:
    r"""Copies the configurations into a folder, with a scale of seconds for Burgers, and returns
    the file of that scale."""
    shutil.copytree(CONFIGS, folder / "configs")
    file = folder / "configs" / "burgers.tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return file
