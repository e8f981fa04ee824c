r"""How far the samples of a solver are from a posterior."""

__all__ = ["FRAMES", "METRICS", "central", "compare", "energy", "ranks"]

import math
from typing import Any

import torch
from torch import Tensor

from constraints import InputError

METRICS = {
    "mean_error": "mean error",
    "spread_ratio": "spread",
    "energy": "energy",
    "coverage": "coverage",
    "rank_ks": "rank KS",
    "relative_error": "relative error",
}
FRAMES = ("mean_error", "spread_ratio", "coverage")  # which also have a curve over time


def compare(samples: Tensor, reference: Tensor, truth: Tensor) -> dict[str, Any]:
    r"""Returns scores of the samples of one posterior, by name, and under `frames` the curves of
    some over time. `mean_error` is the distance of the means in units of the spread, the root of
    the trace of the covariance, of the posterior; `spread_ratio` divides the spreads; `energy` is
    0 for the same distribution; `coverage` is the share of pixels where the central 90 % interval
    of the samples holds the truth, `rank_ks` how far its ranks are from uniform over pixels, and
    `relative_error` is the distance of the mean to the truth.

    Arguments:
        samples: The samples, with shape `(n, 1, X, T)`.
        reference: Samples of the posterior, with shape `(N, 1, X, T)`.
        truth: The field that was measured, with shape `(1, X, T)`.
    """
    samples, reference, truth = samples[:, 0], reference[:, 0], truth[0]
    mean, centre = samples.mean(dim=0), reference.mean(dim=0)
    var, spread = samples.var(dim=0), reference.var(dim=0)
    lower, upper = central(samples)
    covered = ((lower <= truth) & (truth <= upper)).to(truth)
    sorted_ranks = ranks(samples, truth).flatten().sort().values
    steps = (torch.arange(len(sorted_ranks)) + 0.5).to(truth) / len(sorted_ranks)
    apart = (mean - centre).square()
    some = reference[:: max(len(reference) // 512, 1)]  # all pairs would take minutes
    return {
        "mean_error": float((apart.sum() / spread.sum()).sqrt()),
        "spread_ratio": float((var.sum() / spread.sum()).sqrt()),
        "energy": energy(samples.flatten(1), some.flatten(1)),
        "coverage": float(covered.mean()),
        "rank_ks": float((sorted_ranks - steps).abs().max()),
        "relative_error": float((mean - truth).norm() / truth.norm()),
        "frames": {
            "mean_error": (apart.sum(dim=0) / spread.sum(dim=0)).sqrt().tolist(),
            "spread_ratio": (var.sum(dim=0) / spread.sum(dim=0)).sqrt().tolist(),
            "coverage": covered.mean(dim=0).tolist(),
        },
    }


def central(samples: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor]:
    r"""Returns the ends of an interval that holds another draw with about that probability: the
    order statistics number :math:`p (n + 1)`, so that few samples are not told to be too narrow.

    Arguments:
        samples: The samples, with shape `(n, *)`.
        level: The probability.

    Raises:
        InputError: If the samples are too few.
    """
    n, tail = len(samples), (1 - level) / 2
    least = math.ceil(round(1 / tail, 6)) - 1  # 0.1 / 2 is not 1 / 20 in binary
    if n < least:
        raise InputError(
            f"An interval of {level:.0%} needs at least {least} samples, got {n}: draw more."
        )
    q = max((tail * (n + 1) - 1) / (n - 1), 0)
    lower, upper = torch.quantile(samples, torch.tensor([q, 1 - q]).to(samples), dim=0)
    return lower, upper


def ranks(samples: Tensor, truth: Tensor) -> Tensor:
    r"""Returns the ranks of a truth `(*)` among samples `(n, *)`, spread over (0, 1)."""
    return ((samples < truth).sum(dim=0) + 0.5) / (len(samples) + 1)


def energy(samples: Tensor, reference: Tensor) -> float:
    r"""Returns the energy distance of points `(n, d)` and `(N, d)`, in units of the mean distance
    between the two sets, without bias: about 0, of either sign, for the same distribution, and at
    most 1.

    References:
        Energy statistics: A class of statistics based on distances (Székely & Rizzo, 2013)
        https://doi.org/10.1016/j.jspi.2013.03.018
    """
    between = torch.cdist(samples, reference).mean()
    within = sum(torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (samples, reference))
    return float(1 - within / (2 * between))
