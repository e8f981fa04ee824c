"""Padding and channels that a configuration leaves to its data."""

import copy
from pathlib import Path
from typing import Any

import pytest

from constraints import Burgers, Divergence, TotalBrightness
from datamodules import BurgersData, ImageData, KolmogorovData
from namm.cli.fill import Data, fill
from tests.commands import PROBLEM, checkpoint, edited, fit, write
from tests.commands import problem as problem  # a fixture

MODEL = {
    "class_path": "namm.NAMM",
    "init_args": {
        "mirror": {
            "class_path": "namm.MirrorMap",
            "init_args": {
                "forward_map": {
                    "class_path": "namm.ICNN",
                    "init_args": {"padding": None, "channels": None},
                },
                "inverse_map": {
                    "class_path": "namm.PatchNet",
                    "init_args": {"padding": ["reflect", "reflect"], "channels": 5},
                },
            },
        },
        "parts": [{"class_path": "Net", "init_args": {"padding": None}}],
    },
}


class Known:
    def __init__(self, boundary: dict[str, str] | None, channels: int | None = 3) -> None:
        self.boundary, self.channels = boundary, channels


def filled(data: Data) -> dict[str, Any]:
    config = copy.deepcopy(MODEL)
    fill(config, lambda: data)
    return config["init_args"]


def test_null_is_filled_at_every_depth_and_what_is_given_stays() -> None:
    found = filled(Known({"x": "periodic", "t": "none"}))
    mirror = found["mirror"]["init_args"]

    expected = ["circular", "replicate"]
    assert mirror["forward_map"]["init_args"] == {"padding": expected, "channels": 3}
    assert mirror["inverse_map"] == MODEL["init_args"]["mirror"]["init_args"]["inverse_map"]
    assert found["parts"][0]["init_args"] == {"padding": expected}


@pytest.mark.parametrize(
    ("data", "padding"),
    [
        (BurgersData(Burgers(), file="none.h5"), ["circular", "replicate"]),
        (KolmogorovData(Divergence(), file="none.h5"), ["circular", "circular"]),
        (ImageData(TotalBrightness(1.0), "none", 8, file="none.h5"), ["replicate", "replicate"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_padding_follows_the_boundary_of_the_data(data: Data, padding: list[str]) -> None:
    assert filled(data)["parts"][0]["init_args"]["padding"] == padding


def test_data_are_built_only_if_a_value_is_null() -> None:
    config = {"class_path": "namm.ICNN", "init_args": {"padding": ["circular"], "channels": 1}}
    fill(config, lambda: pytest.fail("built"))


def test_data_without_a_boundary_leave_the_padding_null() -> None:
    assert filled(Known(None))["parts"][0]["init_args"] == {"padding": None}


@pytest.mark.parametrize(
    ("left", "channels", "patch", "expected"),
    [(3, 2, 4, 32), (None, 1, 2, 4), (3, 5, 1, 5), (7, 2, 4, 7), (3, None, 2, 3)],
)
def test_network_of_diffusers_gets_the_channels_of_the_folded_data(
    left: int | None, channels: int | None, patch: int, expected: int
) -> None:
    net: dict[str, Any] = {
        "class_path": "diffusers.UNet2DModel",
        "init_args": {"in_channels": left},
    }
    net["init_args"] |= {"out_channels": left, "norm_num_groups": 3}
    denoiser = {"init_args": {"net": net, "patch": patch, "padding": ["circular"] * 2}}
    config = {"class_path": "mdm.MDM", "init_args": {"denoiser": denoiser}}
    fill(config, lambda: Known({"x": "none", "t": "none"}, channels))

    found = {"in_channels": expected, "out_channels": expected, "norm_num_groups": 3}
    assert net["init_args"] == found


def test_recipe_of_a_checkpoint_is_explicit(problem: Path) -> None:
    net = "from namm import ICNN\n\nclass Net(ICNN):\n"
    net += "    def __init__(self, padding: list[str] | None = None, channels: int | None = None,"
    net += " width: int = 2, layers: int = 1):\n        assert channels\n"
    net += "        super().__init__(channels, width, layers, padding=padding)\n"
    write("mine.py", net)
    forward = "model.init_args.mirror.init_args.forward_map"
    write("problem.yaml", edited(PROBLEM, forward, {"class_path": "mine.Net"}))

    assert fit("a", "--trainer.max_steps=2") is None
    recipe = str(checkpoint("a")["hyper_parameters"]["mirror"])
    assert "'padding': ['circular', 'replicate'], 'channels': 1" in recipe
    assert "padding:\n" in Path("runs/toy/a/config.yaml").read_text()
    assert fit("b", "--model.mirror.forward_map.padding=[reflect, reflect]") is None
    assert "'padding': ['reflect', 'reflect']" in str(checkpoint("b")["hyper_parameters"])
