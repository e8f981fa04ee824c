r"""The base of all evaluations: the guards of a distance, the rows of `results.json`, the figure.

A small distance alone proves nothing: samples that are all the same field, or an inverse map that
has forgotten the data, satisfy a constraint too. So each run also reports the discrepancy, the
spread and the power spectrum of its samples against held-out data, and how well the maps return
the data.
"""

__all__ = ["Evaluation"]

import abc
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor, nn

from constraints import Constraint, Given, InputError

from ..description import plain_data
from ..mirror import Mirror
from ..training.io import atomic
from ..training.operations import CountCalls, CountFlops
from ..training.provenance import Origin
from .metrics import MMD, Mean, Spectrum, Spread
from .plots import field_grid

T = TypeVar("T")
GUARDS = {"mmd", "spread", "spectrum"}  # what compares samples with data


class Evaluation(L.LightningModule, abc.ABC):
    r"""Base of the test stages.

    Arguments:
        mirror: The maps of the mirror space in which the diffusion model works.
        constraint: The constraint by which fields are judged.
        task: The name of the task in the results.
        method: The name of the method in the results.
        seed: The seed of the samples.
    """

    mirror: Mirror
    constraint: Constraint
    cycle: Any
    floor: Any

    def __init__(
        self, mirror: Mirror, constraint: Constraint, task: str, method: str, seed: int
    ) -> None:
        super().__init__()
        self.mirror, self.constraint = mirror, constraint
        self.task, self.method, self.seed = task, method, seed
        self.cycle = Mean()
        self.floor = Mean()
        self._begin()

    def origin(self) -> Origin:
        r"""Returns the parts that the loaded checkpoints must fit, for `Provenance`."""
        return Origin(self.constraint, self.mirror, diffusion=True)

    @property
    def maps(self) -> Mirror:
        r"""The maps whose cycle error is measured: the mirror unless a stage restores samples with
        other maps."""
        return self.mirror

    def _begin(self) -> None:
        self.cycle.reset()
        self.floor.reset()
        self.scores: dict[str, dict[str, Any]] = {}
        self.held: list[Tensor] = []
        self.shown: dict[str, Tensor] = {}
        self.calls = self.vjps = self.samples = 0
        self.flops_per_sample = self.seconds = 0.0

    def have(self) -> int:
        r"""Returns the number of test fields."""
        return len(self.trainer.test_dataloaders.dataset)  # type: ignore[union-attr]

    def on_test_start(self) -> None:
        have = self.have()
        if have < 3:
            kind = type(self).__name__
            raise InputError(f"{kind} needs 3 test fields, got {have}: give a larger file.")
        self._begin()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kind = type(self).__name__
        raise InputError(f"{kind} takes no --ckpt_path: each of its parts has a checkpoint.")

    def protocol(self, name: str, x_hat: Tensor, *extra: str) -> dict[str, Any]:
        r"""Returns the metrics of one protocol: distance, the guards that suit such fields, and a
        mean for each extra."""
        if name not in self.scores:
            metrics = {"distance": Mean(), "mmd": MMD(), "spread": Spread()}
            metrics |= {"spectrum": Spectrum()} if Spectrum.suits(x_hat) else {}
            metrics |= {key: Mean() for key in extra}
            self.scores[name] = {key: metric.to(self.device) for key, metric in metrics.items()}
        return self.scores[name]

    def score(self, name: str, x_hat: Tensor, given: Given | None = None, **extra: Tensor) -> None:
        r"""Adds fields to a protocol.

        Arguments:
            name: The protocol.
            x_hat: The fields of the method, with shape `(B, C, *S)`.
            given: The data of each sample.
            extra: Further numbers per sample, each with shape `(B,)`.
        """
        metrics = self.protocol(name, x_hat, *extra)
        metrics["distance"].update(self.constraint(x_hat, given))
        for key in GUARDS & metrics.keys():
            metrics[key].update(x_hat, real=False)
        for key, value in extra.items():
            metrics[key].update(value)

    def account(self, denoiser: nn.Module, seeds: list[int], make: Callable[[list[int]], T]) -> T:
        r"""Makes samples and counts what that costs: seconds, calls and vector-Jacobian products
        of the denoiser; and, once in a test, the operations of one sample, which are those of
        every other. They are counted on the first sample alone, before any is timed, since
        counting takes time of its own.

        Arguments:
            denoiser: The denoiser.
            seeds: The seeds of the samples.
            make: What makes the samples of some seeds.

        Returns:
            What it made.
        """
        if not self.samples:
            with CountFlops() as counter:
                make(seeds[:1])
            self.flops_per_sample = float(counter.flops)
        start = time.perf_counter()
        with CountCalls(denoiser) as counted:
            made = make(seeds)
        if self.device.type == "cuda":  # which works on after a call has returned
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - start
        # one call serves all samples of a batch
        n = len(seeds)
        self.calls += counted.calls * n
        self.vjps += counted.vjps * n
        self.samples += n
        return made

    @torch.no_grad()
    def hold_out(self, x: Tensor, given: Given | None = None) -> None:
        r"""Adds held-out data: to the guards, to the data's own distance, and to the cycle error.

        Arguments:
            x: The data, with shape `(N, C, *S)`.
            given: The data of each sample.
        """
        self.constraint.check_shape(x)
        self.held.append(x)
        self.floor.update(self.constraint(x, given))
        self.cycle.update((self.maps.inverse(self.maps(x)) - x).abs().flatten(1).mean(dim=1))

    def rows(self) -> list[dict[str, Any]]:
        r"""Returns the rows of the results. Costs are those of one sample."""
        common = {"task": self.task, "method": self.method}
        spent = [self.samples, self.calls, self.vjps, self.seconds]
        samples, *spent = self._sum(torch.tensor(spent, dtype=torch.float64)).tolist()
        n = int(samples)
        if n == 0:
            raise InputError("No field was tested: raise trainer.limit_test_batches.")
        cost = dict(zip(("calls", "vjps", "seconds"), (s / n for s in spent), strict=True))
        cost["flops"] = self.flops_per_sample
        rows = []
        for protocol, metrics in self.scores.items():
            for key in GUARDS & metrics.keys():
                metrics[key].update(torch.cat(self.held), real=True)
            for key, metric in metrics.items():
                rows.append(
                    {
                        **common,
                        "protocol": protocol,
                        "metric": key,
                        **_interval(metric.compute()),
                        "n": n,
                        "seed": self.seed,
                        **cost,
                    }
                )
        held = {
            "n": int(self._sum(torch.tensor(sum(len(x) for x in self.held)))),
            "seed": self.seed,
        }
        free = dict.fromkeys(cost, 0)
        rows += [
            {
                **common,
                "protocol": protocol,
                "metric": "cycle",
                **_interval(self.cycle.compute()),
                **held,
                **free,
            }
            for protocol in self.scores
        ]
        rows.append(
            {
                **common,
                "method": "data",
                "protocol": "clean",
                "metric": "distance",
                **_interval(self.floor.compute()),
                **held,
                **free,
            }
        )
        return rows

    def _sum(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum").cpu()

    def on_test_epoch_end(self) -> None:
        rows = self.rows()
        for row in rows:
            if row["method"] == self.method:
                self.log(f"test/{row['protocol']}/{row['metric']}", row["value"], sync_dist=True)
        log_dir = self.trainer.log_dir  # which the processes must ask for together
        if not self.trainer.is_global_zero or log_dir is None:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        figure = field_grid(self.shown, self.constraint, mirror=("measured",))
        figure.savefig(folder / "fields.png", dpi=160)
        results = {
            "rows": rows,
            "config": plain_data(dict(self.hparams)),
            "environment": {
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "device": str(self.device),
                "machine": platform.machine(),
            },
        }
        # a few fields, or as many points as make a cloud
        kept = {k: v[: max(4, 2048 // v[0].numel())].cpu().clone() for k, v in self.shown.items()}
        torch.save(kept, folder / "fields.pt")
        # last, since a folder that holds it counts as evaluated
        with atomic(folder / "results.json") as file:
            file.write(json.dumps(results, indent=1).encode())


def _interval(computed: dict[str, Tensor]) -> dict[str, Any]:
    value, half = float(computed["mean"]), float(computed["ci95"])
    return {"value": value, "ci95": [value - half, value + half]}
