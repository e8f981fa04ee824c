"""Schedules, a recording network and a tiny model, which the tests of this package share."""

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from constraints import Burgers
from mdm import MDM, CosineSchedule, DiffusersDenoiser, DPMSolver, FlowSchedule, VPSchedule
from namm import Optimiser
from tests.problems import AXES, tiny_denoiser

SCHEDULES = (VPSchedule(), CosineSchedule(), FlowSchedule())


def named(value: Any) -> str:
    return type(value).__name__


def unet() -> DiffusersDenoiser:
    torch.manual_seed(0)
    net = UNet2DModel(
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    denoiser = DiffusersDenoiser(net, patch=2, padding=AXES).eval()
    denoiser.calibrate(0.5 + 0.3 * torch.randn(64, 1, 8, 8))
    return denoiser


# denoisers
class Recall(nn.Module):
    """A network that remembers what it was called with, and returns a multiple of it."""

    def __init__(self, gain: float = 0.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.z, self.t = z, t
        return self.gain * z


# the stage
def tiny_mdm(**options: Any) -> MDM:
    options = {
        "denoiser": tiny_denoiser(),
        "constraint": Burgers(),
        "sampler": DPMSolver(3),
        "val_samples": 5,
        "batch_samples": 2,
        "optimiser": Optimiser(1e-2, 0.9),
        **options,
    }
    return MDM(**options)
