r"""The base of training stages: keyed noise, optimiser, logging, and a guard against NaN."""

__all__ = ["Stage", "first_rows", "training_loader"]

import abc
import math
from collections.abc import Sequence
from typing import Any, Self, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from constraints import (
    Batch,
    Constraint,
    InputError,
    Ranged,
    Seed,
    derive_seed,
    noise,
    take,
    uniform,
)

from .checkpoint import FromCheckpoint
from .course import check_course, course
from .optimiser import Optimiser
from .provenance import Origin


class Stage(Ranged, FromCheckpoint, abc.ABC):
    r"""Base of the modules that train.

    The noise of a step depends on `(seed, name, sample, step)` alone, and dropout on the process
    and the step, so that training which was stopped anywhere resumes bit for bit.

    Arguments:
        optimiser: The settings of Adam.
        seed: The seed of all noise, and of the order of the data.
    """

    name: str

    def __init__(self, optimiser: Optimiser, seed: Seed) -> None:
        super().__init__()
        self.optimiser, self.seed = optimiser, seed
        self.validated = torch.nn.ModuleDict()  # the means of the terms of the loss, by name

    def train(self, mode: bool = True) -> Self:
        r"""Sets the mode of the stage. A constraint is a rule: it stays in evaluation mode, and
        its weights stay as they are."""
        super().train(mode)
        for part in self.children():
            if isinstance(part, Constraint):
                part.requires_grad_(False).eval()
        return self

    def on_train_start(self) -> None:
        self.train()  # which Lightning does not call for a new module

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        r"""Refuses the checkpoint of another stage or of other networks, and of a training with
        other settings, before any weight moves."""
        own = {key: value.shape for key, value in self.state_dict().items()}
        found = {key: value.shape for key, value in checkpoint["state_dict"].items()}
        if own != found:
            wrong = next(k for k in sorted({**own, **found}) if own.get(k) != found.get(k))
            raise InputError(
                f"The checkpoint given by --ckpt_path is of another stage or of other networks: "
                f"{wrong} has shape {_shape(found, wrong)} there, {_shape(own, wrong)} here."
            )
        if self._trainer is not None and self.trainer.training:
            check_course(checkpoint, self._course(training_loader(self.trainer)))
        # the constraint is the one given here: where it is another, `Provenance` refuses it
        kept = {k: v for k, v in self.state_dict().items() if k.startswith("constraint.")}
        for name in ("state_dict", "current_model_state"):
            checkpoint.get(name, {}).update(kept)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["course"] = self._course(self.trainer.train_dataloader)

    def _course(self, loader: Any) -> dict[str, Any]:
        return course(self.trainer, loader, self.seed, self.optimiser)

    def origin(self) -> Origin:
        r"""Returns the parts that checkpoints depend on, for `Provenance`: none unless a stage
        says otherwise."""
        return Origin()

    @abc.abstractmethod
    def losses(self, batch: Batch, *key: int | str) -> dict[str, Tensor]:
        r"""Returns the terms of the loss, and their sum as `loss`.

        Arguments:
            batch: The fields `x`, with shape `(B, C, *S)`, and their positions `index`, `(B,)`.
            key: The key by which the noise of this call differs from the noise of other calls.
        """

    def noise(self, batch: Batch, shape: Sequence[int], *key: int | str) -> Tensor:
        r"""Draws standard normal fields, one for each sample of a batch.

        Arguments:
            batch: The batch.
            shape: The shape of one field.
            key: The key by which this draw differs from other draws.
        """
        return noise(self._keys(batch, *key), shape, batch["x"])

    def uniform(self, batch: Batch, *key: int | str) -> Tensor:
        r"""Draws a number in [0, 1) for each sample of a batch, with shape `(B,)`."""
        return uniform(self._keys(batch, *key), (), batch["x"])

    def _keys(self, batch: Batch, *key: int | str) -> list[tuple[int | str, ...]]:
        return [(self.seed, self.name, i, *key) for i in batch["index"].tolist()]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # dropout draws from the global generator
        torch.manual_seed(derive_seed(self.seed, self.name, self.global_rank, self.global_step))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch, "train", self.global_step)
        self._guard(losses, batch)
        self.log_dict({f"train/{k}": v.detach() for k, v in losses.items()}, batch_size=1)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for term, value in self.losses(batch, "val").items():
            # the mean over the fields of all processes, NaN where one value is
            if term not in self.validated:
                self.validated[term] = MeanMetric(nan_strategy=math.nan).to(value.device)
            mean: Any = self.validated[term]
            mean.update(value, len(batch["x"]))
            self.log(f"val/{term}", mean, metric_attribute=f"validated.{term}")

    def _guard(self, losses: dict[str, Tensor], batch: Batch) -> None:
        if torch.isfinite(losses["loss"]):
            return
        terms = [k for k, v in losses.items() if k != "loss" and not torch.isfinite(v)] or ["loss"]
        kept = getattr(self.trainer.checkpoint_callback, "last_model_path", "")
        kept = kept or getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        raise InputError(
            f"At step {self.global_step} the loss is not finite for the batch of samples "
            f"{batch['index'].tolist()}: "
            + ", ".join(f"{term} is {losses[term].item()}" for term in terms)
            + ". "
            + (f"The last good checkpoint is {kept}. " if kept else "No checkpoint was written. ")
            + "A smaller learning rate or gradient clipping usually helps."
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(grads))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = [p for p in self.parameters() if p.requires_grad]
        if not trained:
            raise InputError(f"This {type(self).__name__} has no weights to train: give networks.")
        decay = self.optimiser.decay
        return self.optimiser.build(
            trained, self.trainer.estimated_stepping_batches if decay else math.inf
        )


def training_loader(trainer: L.Trainer) -> DataLoader:
    r"""Returns the loader of the training, from the data module or as given to `fit`."""
    loader: DataLoader = trainer.fit_loop._data_source.dataloader()
    return loader


def first_rows(batch: Batch, n: int) -> Batch:
    r"""Returns the first samples of a batch.

    Arguments:
        batch: The batch.
        n: The number of samples.
    """
    tensors: dict[str, Any] = {k: v[:n] for k, v in batch.items() if isinstance(v, Tensor)}
    if "given" in batch:
        tensors["given"] = take(batch["given"], slice(n))
    return cast(Batch, tensors)


def _shape(shapes: dict[str, Any], key: str) -> str:
    return str(tuple(shapes[key])) if key in shapes else "(none)"
