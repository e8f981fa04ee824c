r"""The optimiser of a training stage, and the course of its learning rate."""

__all__ = ["Optimiser"]

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from constraints import BelowOne, InputError, Natural, NonNegativeFloat, check_arguments


@dataclass(frozen=True)
class Optimiser:
    r"""Creates the settings of Adam.

    Arguments:
        lr: The learning rate.
        beta1: The decay of the first moment, in [0, 1).
        warmup: The number of steps over which the learning rate rises from 0.
        decay: Whether the learning rate falls to 0 on a cosine by the last step.

    Raises:
        InputError: If a number is out of its range.
    """

    lr: NonNegativeFloat
    beta1: BelowOne
    warmup: Natural = 0
    decay: bool = False

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))

    def build(self, parameters: Iterable[Tensor], steps: float) -> OptimizerLRScheduler:
        r"""Returns Adam and its schedule, as `LightningModule.configure_optimizers` returns them.

        Arguments:
            parameters: The parameters to train.
            steps: The number of steps of the training. It is infinite if the training has no last
            step; then the learning rate cannot decay.
        """
        if self.decay and not math.isfinite(steps):
            raise InputError("A rate that decays needs trainer.max_steps or max_epochs.")
        adam = torch.optim.Adam(parameters, lr=self.lr, betas=(self.beta1, 0.999))

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / (self.warmup + 1))
            return rise * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(adam, factor)
        return {
            "optimizer": adam,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"},
        }
