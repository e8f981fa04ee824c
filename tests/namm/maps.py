"""Small networks of maps, and the axes that they continue."""

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from namm import PatchNet
from tests.problems import AXES as AXES


def unet(**options: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        **options,
    ).eval()


def small_patch(patch: int = 4, **options: Any) -> PatchNet:
    options = {"channels": 1, "padding": AXES, **options}
    return PatchNet(patch=patch, width=8, blocks=1, detail=4, finish=1, **options)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()
