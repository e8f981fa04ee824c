r"""The average of the weights."""

__all__ = ["EMA"]

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from constraints import BelowOne, Ranged


class EMA(Ranged, WeightAveraging):
    r"""Creates the exponential moving average of the weights, with the start-up
    :math:`d_n = \min(d, (1 + n) / (10 + n))` after n updates, so that early weights are forgotten.

    Validation and everything after training use the average; a checkpoint holds it as `state_dict`
    and the raw weights as `current_model_state`. Buffers are copied, not averaged.

    Arguments:
        decay: The decay d.
    """

    def __init__(self, decay: BelowOne = 0.999) -> None:
        super().__init__(use_buffers=False, avg_fn=self._average)
        self.decay = decay

    def _average(self, average: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
        decay = min(self.decay, (1 + float(n)) / (10 + float(n)))
        return torch.lerp(current, average, decay)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # outside training there is nothing to restore: `state_dict` is the average already
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        r"""Keeps the average in place for the module's own hook, which comes next."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None
