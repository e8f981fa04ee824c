r"""The stage that trains the counter of the constraint `constraints.Count`."""

__all__ = ["Counting", "calibration"]

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from constraints import Batch, Counter, NonNegativeFloat, Seed

from .checkpoint import save_recipe
from .io import run_folder, write_together
from .optimiser import Optimiser
from .stage import Stage

FILES = ("counts.json", "counts.md")
WITHIN = (0.1, 0.25, 0.5, 1.0)


class Counted(Metric):
    r"""Creates the collection of counts and true numbers over all processes."""

    full_state_update = False
    counts: list[Tensor]
    numbers: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", default=[], dist_reduce_fx="cat")
        self.add_state("numbers", default=[], dist_reduce_fx="cat")

    def update(self, c: Tensor, n: Tensor) -> None:
        r"""Adds counts and true numbers, each with shape `(B,)`."""
        self.counts.append(c)
        self.numbers.append(n)

    def compute(self) -> tuple[Tensor, Tensor]:
        return dim_zero_cat(self.counts).cpu(), dim_zero_cat(self.numbers).cpu()


class Counting(Stage):
    r"""Creates the stage that trains a network to count.

    The loss is Huber's of the error of the count, and the squared error of the density in each
    cell, summed over an image. The second says where the objects are and lets the network learn
    from a few thousand images; the first is what the constraint will measure.

    References:
        Learning To Count Objects in Images (Lempitsky & Zisserman, 2010)
        https://papers.nips.cc/paper/2010/hash/fe73f687e5bc5280214e0486b273a5f9-Abstract.html

    Arguments:
        counter: The network.
        density_weight: The weight of the density.
        optimiser: The settings of Adam.
        seed: The seed of the order of the data.
    """

    name = "counting"

    def __init__(
        self,
        counter: Counter,
        density_weight: NonNegativeFloat = 10.0,
        optimiser: Optimiser = Optimiser(lr=2e-3, beta1=0.9),
        seed: Seed = 0,
    ) -> None:
        super().__init__(optimiser, seed)
        save_recipe(self, "counter")
        self.counter = counter
        self.density_weight = density_weight
        self.counted = Counted()

    def losses(self, batch: Batch, *key: int | str) -> dict[str, Tensor]:
        r"""Returns the terms of the loss, and how good the counts are.

        Arguments:
            batch: The images `x`, with shape `(B, 1, H, W)`, their numbers of objects `n`, `(B,)`,
                and `density`, `(B, 1, H, W)`, which sums to one around each object.
            key: Not used, since training draws no noise.
        """
        del key
        n, wanted = batch["n"].to(batch["x"]), batch["density"]
        density = self.counter.density(batch["x"])
        count = density.sum(dim=(1, 2, 3))
        share = wanted[0].numel() / density[0].numel()
        wanted = share * F.adaptive_avg_pool2d(wanted, (density.shape[2], density.shape[3]))
        losses = {
            "count": F.huber_loss(count, n),
            "density": (density - wanted).square().sum(dim=(1, 2, 3)).mean(),
        }
        loss = losses["count"] + self.density_weight * losses["density"]
        error = (count - n).detach().abs()
        return {
            "loss": loss,
            **losses,
            "absolute_error": error.mean(),
            "accuracy": (error < 0.5).float().mean(),
        }

    def outputs(self, verb: str, folder: Path) -> list[Path]:
        r"""Returns the files that a command writes, for `namm.training.folder.Producer`."""
        return [folder / name for name in FILES] if verb == "test" else []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.no_grad():
            count = self.counter(batch["x"])
        self.counted.update(count, batch["n"])

    def on_test_epoch_end(self) -> None:
        r"""Writes `counts.json` and `counts.md` into the run's folder, and prints the table."""
        result = calibration(*self.counted.compute())
        self.counted.reset()
        self.log("test/accuracy", result["accuracy"], sync_dist=True)
        folder = run_folder(self.trainer)  # which the processes must ask for together
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        text = markdown(result)
        contents = zip(FILES, (f"{json.dumps(result, indent=1)}\n", f"{text}\n"), strict=True)
        write_together(folder, {name: content.encode() for name, content in contents})
        print(f"\n{text}\n")

    @torch.no_grad()
    def panels(self, batch: Batch) -> tuple[dict[str, Tensor], list[str]]:
        r"""Returns images and where objects are counted in them, by title, for the figure of each
        validation, and no titles of mirror space."""
        return {"x": batch["x"], "density": self.counter.density(batch["x"])}, []


def calibration(c: Tensor, n: Tensor) -> dict[str, Any]:
    r"""Returns how good counts are: the share that is right to the nearest whole number, the mean
    absolute error, the bias, the share within some distances, the line c = slope n + intercept of
    least squares (where the numbers differ), and the same for each number.

    Arguments:
        c: The counts, with shape `(N,)`.
        n: The true numbers, with shape `(N,)`.
    """
    c, n = c.double(), n.double()
    numbers = n.unique().tolist()
    result: dict[str, Any] = {**_scores(c, n), "within": {}}
    for d in WITHIN:
        result["within"][f"{d:g}"] = float(((c - n).abs() < d).double().mean())
    if len(numbers) > 1:
        deviation = n - n.mean()
        slope = float((deviation * c).sum() / deviation.square().sum())
        result |= {"slope": slope, "intercept": float(c.mean() - slope * n.mean())}
    result["by_number"] = {f"{k:g}": _scores(c[n == k], n[n == k]) for k in numbers}
    return result


def _scores(c: Tensor, n: Tensor) -> dict[str, float]:
    error = c - n
    return {
        "images": len(c),
        "accuracy": float((error.abs() < 0.5).double().mean()),
        "mean_absolute_error": float(error.abs().mean()),
        "bias": float(error.mean()),
        "mean": float(c.mean()),
        "std": float(c.std(correction=0)),
    }


def markdown(result: dict[str, Any]) -> str:
    r"""Returns the result of `calibration` as a Markdown table."""
    lines = ["| n | images | mean count | std | right | mean abs. error |", "|" + "---|" * 6]
    for number, row in [*result["by_number"].items(), ("all", result)]:
        mean = f"{row['mean']:.2f} | {row['std']:.2f}" if number != "all" else " | "
        lines.append(
            f"| {number} | {row['images']} | {mean} | {row['accuracy']:.1%} | "
            f"{row['mean_absolute_error']:.3f} |"
        )
    return "\n".join(lines)
