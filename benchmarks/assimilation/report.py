r"""How far the samples of a solver are from a posterior, and the table and the figure of
`python -m benchmarks.assimilation`."""

__all__ = ["central", "compare", "draw", "energy", "ranks", "summarise"]

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from constraints import InputError
from namm.evaluation.results import half

METRICS = {
    "mean_error": "mean error",
    "spread_ratio": "spread",
    "energy": "energy",
    "coverage": "coverage",
    "rank_ks": "rank KS",
    "relative_error": "relative error",
}
FRAMES = ("mean_error", "spread_ratio", "coverage")
FREE = ("reference", "exact samples", "prior samples")  # of any network


def compare(samples: Tensor, reference: Tensor, truth: Tensor) -> dict[str, Any]:
    r"""Returns scores of the samples of one posterior, by name, and under `frames` the curves of
    some over time. `mean_error` is the distance of the means in units of the spread, the root of
    the trace of the covariance, of the posterior; `spread_ratio` that of the spreads; `energy` is
    0 for the same distribution; `coverage` is the share of pixels where the central 90 % interval
    of the samples holds the truth, `rank_ks` how far its ranks are from uniform over pixels, and
    `relative_error` that of the mean to the truth.

    Arguments:
        samples: The samples, with shape `(n, 1, X, T)`.
        reference: Samples of the posterior, with shape `(N, 1, X, T)`.
        truth: The field that was measured, with shape `(1, X, T)`.
    """
    samples, reference, truth = samples[:, 0], reference[:, 0], truth[0]
    mean, centre = samples.mean(dim=0), reference.mean(dim=0)
    var, spread = samples.var(dim=0), reference.var(dim=0)
    low, high = central(samples)
    held = ((low <= truth) & (truth <= high)).to(truth)
    sorted_ranks = ranks(samples, truth).flatten().sort().values
    steps = (torch.arange(len(sorted_ranks)) + 0.5).to(truth) / len(sorted_ranks)
    apart = (mean - centre).square()
    some = reference[:: max(len(reference) // 512, 1)]  # all pairs would take minutes
    return {
        "mean_error": float((apart.sum() / spread.sum()).sqrt()),
        "spread_ratio": float((var.sum() / spread.sum()).sqrt()),
        "energy": energy(samples.flatten(1), some.flatten(1)),
        "coverage": float(held.mean()),
        "rank_ks": float((sorted_ranks - steps).abs().max()),
        "relative_error": float((mean - truth).norm() / truth.norm()),
        "frames": {
            "mean_error": (apart.sum(dim=0) / spread.sum(dim=0)).sqrt().tolist(),
            "spread_ratio": (var.sum(dim=0) / spread.sum(dim=0)).sqrt().tolist(),
            "coverage": held.mean(dim=0).tolist(),
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
    low, high = torch.quantile(samples, torch.tensor([q, 1 - q]).to(samples), dim=0)
    return low, high


def ranks(samples: Tensor, truth: Tensor) -> Tensor:
    r"""Returns the ranks of a truth `(*)` among samples `(n, *)`, spread over (0, 1)."""
    return ((samples < truth).sum(dim=0) + 0.5) / (len(samples) + 1)


def energy(samples: Tensor, reference: Tensor) -> float:
    r"""Returns the energy distance in units of the mean distance between the two sets, without
    bias: about 0, of either sign, for the same distribution, and at most 1.

    References:
        Energy statistics: A class of statistics based on distances (Székely & Rizzo, 2013)
        https://doi.org/10.1016/j.jspi.2013.03.018

    Arguments:
        samples: The points, with shape `(n, d)`.
        reference: The other points, with shape `(N, d)`.
    """
    between = torch.cdist(samples, reference).mean()
    within = sum(torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (samples, reference))
    return float(1 - within / (2 * between))


def added(runs: list[dict[str, Any]]) -> list[str]:
    r"""Returns the paragraph on the commands of other runs, whose solvers were added."""
    if not runs:
        return []
    made = [f"`{run['command']}` in {run['cpu_minutes']} CPU minutes" for run in runs]
    return ["", f"The solvers were run by {' and '.join(made)}."]


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the results as Markdown.

    Arguments:
        results: The contents of `results.json`.
    """
    config, chains = results["config"], results["chains"]
    prior, calibration = results["prior"], results["calibration"]
    methods = list(dict.fromkeys(row["method"] for row in results["rows"]))
    table = {(row["method"], row["metric"]): row for row in results["rows"]}
    out = [
        "# A reference posterior for Burgers assimilation",
        "",
        f"Made by `{results['command']}` in {results['cpu_minutes']} CPU minutes, seed "
        f"{config['seed']}. The unknown is the first frame, under the Gaussian of the mean and "
        f"the covariance of {config['training']} training first frames; the later frames follow "
        f"from it. {results['observed']} frames are seen with noise of std {results['std']:g}. "
        f"The reference of each of {config['fields']} test fields is {config['reference']} draws "
        f"of {config['chains']} chains.",
        *added(results["added"]),
        "",
        "## The samples against the reference",
        "",
        f"n = {config['samples']} for each field; ± is the standard deviation over fields. `exact "
        "samples` are drawn by importance from the Gaussian of Laplace and are the floor, `prior "
        "samples` are fields that have not seen the measurement, and `reference` is its own draws "
        "against the truth. Mean error is in units of the spread of the posterior; spread is a "
        "ratio; energy is 0 at best and at most 1; coverage, of the truth by the central 90 % "
        "interval, is 0.9 if calibrated; rank KS is how far the ranks of the truth are from "
        "uniform over the pixels of a field, which are correlated, so that its floor is not 0.",
        "",
        f"| method | {' | '.join(METRICS.values())} | calls | s |",
        "| --- |" + " ---: |" * (len(METRICS) + 2),
    ]
    for method in methods:
        cells = [
            f"{table[method, k]['value']:.3g} ± {table[method, k]['sd']:.1g}"
            if (method, k) in table
            else ""
            for k in METRICS
        ]
        row = table[method, "coverage"]
        out.append(f"| {method} | {' | '.join(cells)} | {row['calls']} | {row['seconds']:.2g} |")
    out += [
        "",
        "![Curves over time, and ranks](posterior.png)",
        "",
        "## The chains",
        "",
        "| field | gradient at the mode | accepted | step | worst R-hat | least effective size | "
        "importance | apart |",
        "| ---: |" + " ---: |" * 7,
    ]
    for i, row in enumerate(chains):
        out.append(
            f"| {i} | {row['slope']:.0e} | {row['acceptance']:.2f} | {row['step']:.2f} | "
            f"{row['rhat']:.3f} | {row['ess']:.0f} | {row['importance']:.3f} | "
            f"{row['apart']:.3f} |"
        )
    out += [
        "",
        f"Over the unknowns in white coordinates and their square sum, of {config['draws']} draws "
        f"of {config['chains']} chains after {config['warmup']}. `importance`: the effective "
        f"share of {config['weighted']} weighted draws of the Gaussian of Laplace; `apart`: the "
        "distance between their mean of the first frame and that of the chains, in units of the "
        "spread, with nothing in common between the two but the potential.",
        "",
        "## How wrong the Gaussian is",
        "",
        "The first frames are a Gaussian process scaled to [0, 1] and stepped on, and so are not "
        f"Gaussian: over {config['training']} of them, the skewness of a point is between "
        f"{prior['skewness'][0]:.2f} and {prior['skewness'][1]:.2f}, its excess kurtosis between "
        f"{prior['kurtosis'][0]:.2f} and {prior['kurtosis'][1]:.2f}; along the principal axes, of "
        f"the ten largest, the skewness is up to {prior['axis_skewness']:.2f} and the excess "
        f"kurtosis from {prior['axis_kurtosis'][0]:.2f} to {prior['axis_kurtosis'][1]:.2f} in "
        f"size. Of draws of the Gaussian, {prior['outside']:.1%} of the points lie outside of [0, "
        f"1], where no field is, and {prior['unstable']:.1%} of the fields are so steep that the "
        "solver blows up, and are left out. What that does to the posterior, over "
        f"{config['calibrated']} fields each, by the coverage of the 90 % interval and the mean "
        "square of the standardised error (1 if calibrated), ± half of the 95 % interval over "
        "fields:",
        "",
        "| truths | frame | coverage | squared z-score |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in calibration:
        cover, square = row["coverage"], row["square"]
        out.append(
            f"| {row['truths']} | {row['frame']} | {cover['value']:.3f} ± {half(cover):.3f} | "
            f"{square['value']:.3f} ± {half(square):.3f} |"
        )
    out += [
        "",
        "Truths drawn from the Gaussian itself are the control: there the reference is right by "
        "construction, and the numbers show whether the sampler is. A solver whose prior is the "
        "fields' own law may beat the reference in relative error; a difference of spread that is "
        "no larger than the miscalibration of the reference on test fields says nothing about it.",
    ]
    return "\n".join(out) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    r"""Draws the curves over time and the ranks of the truths.

    Arguments:
        results: The contents of `results.json`.
        path: The file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # grey for what has no network; a colour for each solver, dashed in mirror space
    lines = dict(zip(FREE, ("-", "--", ":"), strict=True))
    solvers = list(dict.fromkeys(k.split(",")[0] for k in results["frames"] if k not in FREE))

    def style(method: str) -> dict[str, str]:
        if method in FREE:
            return {"color": "0.4", "linestyle": lines[method]}
        name, space = method.split(", ")
        dashed = space == "mirror space"
        return {"color": f"C{solvers.index(name)}", "linestyle": "--" if dashed else "-"}

    fig, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    for ax, metric in zip(axes, FRAMES, strict=False):
        for method, curves in results["frames"].items():
            if metric in curves:
                frames = range(1, len(curves[metric]) + 1)
                ax.plot(frames, curves[metric], label=method, **style(method))
        ax.axvspan(1, results["observed"], color="0.92", zorder=0)
        ax.set(title=METRICS[metric], xlabel="frame")
    for ax in axes[:2]:
        ax.set_yscale("log")
    axes[2].axhline(0.9, color="0.5", linestyle=":")
    fig.legend(
        *axes[2].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=7
    )
    for truths, counts in results["ranks"].items():
        centres = [(i + 0.5) / len(counts) for i in range(len(counts))]
        axes[3].step(centres, counts, where="mid", label=truths)
    axes[3].axhline(1.0, color="0.5", linestyle=":")
    axes[3].set(title="ranks of truths in the reference", xlabel="rank", ylim=(0, None))
    axes[3].legend(fontsize=7)
    fig.savefig(path, dpi=130)
    plt.close(fig)
