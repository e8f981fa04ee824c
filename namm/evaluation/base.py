r"""The base of all evaluations: the test stages that write `results.json` and a figure."""

__all__ = ["Evaluation"]

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from constraints import Constraint, Given, InputError, Ranged, Seed

from ..description import plain_data
from ..mirror import Mirror
from ..training.checkpoint import FromCheckpoint
from ..training.io import run_folder
from ..training.provenance import Origin
from .plots import field_grid
from .results import FILES, interval, write
from .sampling_costs import SamplingCosts
from .scores import Scores

T = TypeVar("T")


class Evaluation(Ranged, FromCheckpoint, abc.ABC):
    r"""Base of the test stages.

    Arguments:
        mirror: The maps of the mirror space in which the diffusion model works.
        constraint: The constraint by which fields are judged.
        task: The name of the task in the results.
        method: The name of the method in the results, not `data`.
        seed: The seed of the samples.
    """

    mirror: Mirror
    constraint: Constraint
    scores: Scores

    def __init__(
        self, mirror: Mirror, constraint: Constraint, task: str, method: str, seed: Seed
    ) -> None:
        super().__init__()
        if method == "data":
            raise InputError("The method 'data' is the row of the data: give another name.")
        self.mirror, self.constraint = mirror, constraint
        self.task, self.method, self.seed = task, method, seed
        self.scores = Scores()
        self._begin()

    def origin(self) -> Origin:
        r"""Returns the parts that the loaded checkpoints must fit, for `Provenance`."""
        return Origin(self.constraint, self.mirror, diffusion=True)

    def outputs(self, verb: str, folder: Path) -> list[Path]:
        r"""Returns the files that a command writes, for `namm.training.folder.Producer`."""
        return [folder / name for name in FILES] if verb == "test" else []

    @property
    def maps(self) -> Mirror:
        r"""The maps whose cycle error is measured: the mirror unless a stage restores samples with
        other maps."""
        return self.mirror

    def _begin(self) -> None:
        self.scores.reset()
        self.costs = SamplingCosts(self.device)
        self.pictures: dict[str, Tensor] = {}
        self.pictures_given: Given | None = None  # of the first of them, for the residuals

    def test_fields(self) -> int:
        r"""Returns the number of test fields."""
        return len(self.trainer.test_dataloaders.dataset)  # type: ignore[union-attr]

    def on_test_start(self) -> None:
        fields = self.test_fields()
        if fields < 3:
            kind = type(self).__name__
            raise InputError(f"{kind} needs 3 test fields, got {fields}: give a larger file.")
        self._begin()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kind = type(self).__name__
        raise InputError(f"{kind} takes no --ckpt_path: each of its parts has a checkpoint.")

    def score(self, name: str, x_hat: Tensor, given: Given | None = None, **extra: Tensor) -> None:
        r"""Adds samples to a protocol.

        Arguments:
            name: The protocol.
            x_hat: The samples, with shape `(B, C, *S)`.
            given: The data of each sample.
            extra: Further numbers per sample, each with shape `(B,)`.
        """
        self.scores.add(name, x_hat, self.constraint(x_hat, given), **extra)

    def account(self, denoiser: nn.Module, seeds: list[int], make: Callable[[list[int]], T]) -> T:
        r"""Makes samples and counts the costs of the samples, as `SamplingCosts.count` does."""
        return self.costs.count(denoiser, seeds, make)

    @torch.no_grad()
    def hold_out(self, x: Tensor, given: Given | None = None) -> None:
        r"""Adds held-out data: to the guards, to the distance of the data, and to the cycle error.

        Arguments:
            x: The data, with shape `(N, C, *S)`.
            given: The data of each sample.
        """
        self.constraint.check_shape(x)
        cycle = (self.maps.inverse(self.maps(x)) - x).abs().flatten(1).mean(dim=1)
        self.scores.hold_out(x, self.constraint(x, given), cycle)

    def rows(self) -> list[dict[str, Any]]:
        r"""Returns the rows of the results. The costs of a row are the costs of one sample."""
        n, costs = self.costs.per_sample(self._sum)
        working = self._sum(torch.tensor(float(self.costs.samples > 0)))
        if working < self.trainer.world_size:  # the others would wait for its scores
            raise InputError("A process tested no field: raise trainer.limit_test_batches.")
        common = {"task": self.task, "method": self.method}
        sampled = {"n": n, "seed": self.seed, **costs}
        rows = [
            {**common, "protocol": protocol, "metric": metric, **interval(value), **sampled}
            for protocol, metric, value in self.scores.compute()
        ]
        fields = int(self._sum(torch.tensor(sum(len(x) for x in self.scores.data))))
        data = {"n": fields, "seed": self.seed, **dict.fromkeys(costs, 0)}
        cycle = {"metric": "cycle", **interval(self.scores.cycle.compute()), **data}
        rows += [{**common, "protocol": name, **cycle} for name in self.scores.protocols]
        floor = {"metric": "distance", **interval(self.scores.floor.compute()), **data}
        return [*rows, {**common, "method": "data", "protocol": "clean", **floor}]

    def notes(self) -> list[str]:
        r"""Returns sentences about the results which a reader must know. None by default."""
        return []

    def _sum(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum").cpu()

    def on_test_epoch_end(self) -> None:
        rows, notes = self.rows(), self.notes()
        for note in notes:
            rank_zero_warn(note)
        for row in rows:
            if row["method"] == self.method and row["value"] is not None:
                self.log(f"test/{row['protocol']}/{row['metric']}", row["value"], sync_dist=True)
        folder = run_folder(self.trainer)  # which the processes must ask for together
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        given = self.pictures_given
        figure = field_grid(self.pictures, self.constraint, mirror=("measured",), given=given)
        config = plain_data(dict(self.hparams))
        write(folder, rows, config, notes, self.device, figure, self.pictures, given)
