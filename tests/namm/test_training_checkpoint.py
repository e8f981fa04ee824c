"""Parts of a checkpoint: which weights they hold, and which files are refused."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from constraints import Burgers, InputError
from namm import EMA, ICNN, Flops, MirrorMap, Provenance, load_mirror, load_part
from namm.cli.lightning import main
from namm.training.io import KeepLast
from tests.namm.stages import fit, last, same, tiny_stage, weights
from tests.problems import tiny_mirror


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a NAMM that was trained from the command line."""

    folder = tmp_path_factory.mktemp("commanded")
    small = {"patch": 2, "width": 8, "blocks": 1, "detail": 4, "finish": 1}
    maps = {
        "forward_map": {"class_path": "namm.ICNN", "init_args": {"width": 4, "layers": 1}},
        "inverse_map": {"class_path": "namm.PatchNet", "init_args": small},
    }
    config = {
        "model": {
            "class_path": "namm.NAMM",
            "init_args": {
                "mirror": {"class_path": "namm.MirrorMap", "init_args": maps},
                "constraint": {"class_path": "constraints.Burgers"},
                "optimiser": {"lr": 1e-2},
            },
        },
        "data": {
            "class_path": "datamodules.BurgersData",
            "init_args": {
                "constraint": {"class_path": "constraints.Burgers"},
                "file": str(folder / "fields.h5"),
                "sizes": {"train": 12, "val": 4, "test": 6},
                "points": 8,
                "frames": 8,
                "batch_size": 4,
            },
        },
        "ema": {"decay": 0.5},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 3,
            "logger": False,
            "default_root_dir": str(folder),
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "-c", str(folder / "mine.yaml")])
    return folder


# parts of checkpoints
def test_part_of_a_command_is_its_average_or_its_raw_weights(commanded: Path) -> None:
    state = torch.load(last(commanded), weights_only=True)
    average, raw = load_mirror(str(last(commanded))), load_mirror(str(last(commanded)), "raw")

    assert type(average) is MirrorMap and type(average.forward_map) is ICNN
    assert average.forward_map.free.weight.shape == (2 * 2 * 4, 1, 3, 3)
    for mirror, source in ((average, "state_dict"), (raw, "current_model_state")):
        stored = {
            name.removeprefix("mirror."): value
            for name, value in state[source].items()
            if name.startswith("mirror.")
        }
        assert same(dict(mirror.state_dict()), stored)
    assert not same(weights(average), weights(raw))


def test_part_is_frozen_and_knows_where_it_comes_from(commanded: Path) -> None:
    mirror = load_mirror(str(last(commanded)))
    found = mirror.provenance

    assert not mirror.training and not any(w.requires_grad for w in mirror.parameters())
    assert found["checkpoint"] == str(last(commanded)) and found["shape"] == [1, 8, 8]
    assert found["constraint"]["class"] == "Burgers" and found["constraint"]["viscosity"] == 0.05
    constraint = load_part(str(last(commanded)), "constraint")
    assert isinstance(constraint, Burgers) and constraint.substeps == 5


def test_part_that_is_not_there_is_refused(commanded: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'denoiser'.*mirror"):
        load_part(str(last(commanded)), "denoiser")
    with pytest.raises(InputError, match="none"):
        load_mirror(str(tmp_path / "none.ckpt"))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"checkpoint"):
        load_mirror(str(tmp_path / "text.ckpt"))


def test_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"mirror": tiny_mirror()}}, path)

    with pytest.raises(InputError, match=r"checkpoint"):
        load_mirror(str(path))


def test_checkpoint_from_python_holds_plain_data(tmp_path: Path) -> None:
    fit(tmp_path, tiny_stage(sigma_max=0.3), EMA(), Flops(), Provenance(), KeepLast(1))
    state = torch.load(last(tmp_path), weights_only=True)

    assert state["hyper_parameters"]["sigma_max"] == 0.3
    assert not {"mirror", "constraint"} & set(state["hyper_parameters"])
    assert state["provenance"]["shape"] == [1, 8, 8]
    assert {"current_model_state", "optimizer_states", "callbacks"} <= set(state)


def test_command_flushes_subnormal_numbers(commanded: Path) -> None:
    # which made the first training step twenty times slower than a later one
    assert not (torch.full((64,), 1e-30) * 1e-10).any()


class Diverge(L.Callback):
    """A training whose weights are not finite after a step."""

    def on_train_batch_end(self, trainer: L.Trainer, stage: L.LightningModule, *_: Any) -> None:
        next(stage.parameters()).data.fill_(math.inf)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    keep = KeepLast(1)
    with pytest.raises(InputError, match=r"step 1\b") as refused:
        fit(tmp_path, tiny_stage(), Diverge(), keep, max_steps=3)

    assert "No checkpoint was written" in str(refused.value) and not last(tmp_path).exists()
