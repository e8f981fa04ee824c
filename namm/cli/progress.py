r"""The progress of the trainer where the output is no terminal: a line a minute."""

__all__ = ["LineProgress"]

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from constraints import progress


class LineProgress(ProgressBar):
    r"""Creates the callback that prints the steps of training, and the batches of validation, test
    and prediction, with an estimate of the time that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[Any] = []  # of training, and of a validation inside

    def enable(self) -> None:
        r"""Does nothing: `constraints.show_progress` decides."""

    def disable(self) -> None:
        r"""Does nothing: `constraints.show_progress` decides."""

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        steps = trainer.estimated_stepping_batches
        self._begin(int(steps) if steps < float("inf") else 0, "Training", "steps")
        self.bars[-1].initial = self.bars[-1].n = trainer.global_step  # of a run that goes on

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.bars[-1].update(trainer.global_step - self.bars[-1].n)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self._begin(sum(map(int, trainer.num_val_batches)), "Validating", "batches")

    def on_test_start(self, trainer: Trainer, *_: Any) -> None:
        self._begin(sum(map(int, trainer.num_test_batches)), "Testing", "batches")

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin(sum(map(int, trainer.num_predict_batches)), "Predicting", "batches")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.bars[-1].update()

    def on_test_batch_end(self, *_: Any) -> None:
        self.bars[-1].update()

    def on_predict_batch_end(self, *_: Any) -> None:
        self.bars[-1].update()

    def on_train_end(self, *_: Any) -> None:
        self.bars.pop().close()

    def on_validation_end(self, *_: Any) -> None:
        self.bars.pop().close()

    def on_test_end(self, *_: Any) -> None:
        self.bars.pop().close()

    def on_predict_end(self, *_: Any) -> None:
        self.bars.pop().close()

    def _begin(self, total: int, title: str, unit: str) -> None:
        self.bars.append(progress(total, title, unit))
