r"""The order in which fields are seen: a function of a seed and the epoch, split over processes.

Lightning resumes in the middle of an epoch by counting on from the batch it had reached, but
starts the loader from its beginning. So the batches themselves must know where training is.
"""

__all__ = ["KeyedBatches", "KeyedData", "RankSampler", "ResumableLoader"]

from collections.abc import Iterator, Sized
from typing import Any, Self

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from constraints import InputError, Natural, PositiveInt, Ranged, Seed, generator


class KeyedBatches(Sampler[list[int]]):
    r"""Creates the batches of training: an epoch is a permutation drawn from `(seed, "order",
    epoch)`, cut into batches; an incomplete batch at its end is dropped.

    With several processes, their batches of one step are together a consecutive block of the
    permutation, and all have the same number of batches. With a trainer, an iteration starts in
    the epoch and at the batch that its training has reached; without a trainer, in epoch 0.
    The number of batches, in contrast, always belongs to a full epoch.

    Arguments:
        size: The number of fields.
        batch_size: The number of fields in a batch, of each process.
        seed: The seed of the order.
        rank: Which process this is.
        ranks: The number of processes.
        trainer: The trainer whose progress is followed.

    Raises:
        InputError: If the fields do not fill a single batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        trainer: Trainer | None = None,
    ) -> None:
        if size < batch_size * ranks:
            batches = f"a batch of {batch_size} for each of {ranks} process(es)"
            raise InputError(f"{size} fields do not fill {batches}: give a smaller batch_size.")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.ranks, self.trainer = rank, ranks, trainer

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.ranks)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self._reached()
        order = torch.randperm(self.size, generator=generator(self.seed, "order", epoch))
        used = order[: len(self) * self.ranks * self.batch_size]
        batches = used.view(len(self), self.ranks, self.batch_size)[:, self.rank]
        return iter(batches[start:].tolist())

    def _reached(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        limit = self.trainer.limit_train_batches
        length = min(limit, len(self)) if isinstance(limit, int) else int(limit * len(self))
        if length < 1:
            raise InputError(f"limit_train_batches={limit} leaves none of {len(self)} batches.")
        # Batches are counted rather than optimiser steps (several batches may share one) or epochs
        # (a checkpoint of the last batch still belongs to its epoch).
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        epoch, start = divmod(progress.total.processed, length)
        return (0 if self.trainer.overfit_batches else epoch), start  # type: ignore[attr-defined]


class RankSampler(DistributedSampler):
    r"""Creates the order of evaluation: process k sees every n-th field from the k-th on. Each
    field is seen once, so that the last processes may see one less.

    Arguments:
        dataset: The fields.
        rank: Which process this is.
        ranks: The number of processes.

    Raises:
        InputError: If a process would see no field.
    """

    def __init__(self, dataset: Sized, rank: int = 0, ranks: int = 1) -> None:
        if len(dataset) < ranks:
            raise InputError(f"{ranks} processes share {len(dataset)} fields: give more fields.")
        super().__init__(dataset, num_replicas=ranks, rank=rank, shuffle=False)  # type: ignore
        self.mine = range(rank, len(dataset), ranks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)

    def __len__(self) -> int:
        return len(self.mine)


class ResumableLoader(DataLoader):
    r"""Creates a loader whose batches know where to go on. It has no state of its own, but without
    these methods Lightning would warn that it starts over."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class KeyedData(Ranged, LightningDataModule):
    r"""Creates the loaders that all data modules share.

    Arguments:
        seed: The seed of the order of training, where the model has none.
        batch_size: The number of items in a batch, of each process.
        num_workers: The number of processes that read items; with 0 this process reads them.
    """

    def __init__(self, seed: Seed, batch_size: PositiveInt, num_workers: Natural) -> None:
        super().__init__()
        self.seed, self.batch_size, self.num_workers = seed, batch_size, num_workers

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        r"""Refuses: a checkpoint describes no data module."""
        raise InputError(f"A checkpoint builds no {cls.__name__}: give its arguments.")

    def shuffled(self, items: Dataset) -> DataLoader:
        r"""Returns the batches of training, from wherever training has got to. Their order is
        keyed by the seed of the model, or by the seed of the data where the model has none."""
        module = self.trainer.lightning_module if self.trainer else None
        seed = getattr(module, "seed", self.seed)
        size = len(items)  # type: ignore[arg-type]
        batches = KeyedBatches(size, self.batch_size, seed, *self._rank(), self.trainer)
        return ResumableLoader(dataset=items, batch_sampler=batches, **self._workers())

    def in_order(self, items: Dataset) -> DataLoader:
        r"""Returns the batches of evaluation, of which each process has its share."""
        rank, ranks = self._rank()
        sampler = RankSampler(items, rank, ranks) if ranks > 1 else None  # type: ignore[arg-type]
        return DataLoader(
            dataset=items, sampler=sampler, batch_size=self.batch_size, **self._workers()
        )

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self) -> dict[str, Any]:
        # a generator of its own: a loader without one draws from the global one
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "generator": generator("workers"),
        }
