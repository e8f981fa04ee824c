r"""The tables of the benchmark, all made from its numbers."""

__all__ = ["summarise"]

from typing import Any

from namm.evaluation.results import half_width

from ..common.tables import join, mean_sd, table
from .scores import METRICS

FACTS = ("slope", "acceptance", "step", "rhat", "ess", "importance", "apart")


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the tables as Markdown."""
    cells = {(row["method"], row["metric"]): row for row in results["rows"]}
    rows = []
    for method in dict.fromkeys(row["method"] for row in results["rows"]):
        found = [cells.get((method, metric)) for metric in METRICS]
        row = cells[method, "coverage"]
        cost = [str(row["calls"]), f"{row['seconds']:.2g}"]
        rows.append([method, *(mean_sd(cell) if cell else "" for cell in found), *cost])
    made = [
        f"`{run['command']}`: {run['cpu_minutes']} CPU minutes"
        for run in (results, *results["added"])
    ]
    config = ", ".join(f"{key} {value}" for key, value in results["config"].items())
    chains = [[i, *(f"{row[k]:.3g}" for k in FACTS)] for i, row in enumerate(results["chains"])]
    prior = []
    for name, value in results["prior"].items():
        ends = value if isinstance(value, list) else [value]
        prior.append([name, " to ".join(f"{v:.3g}" for v in ends)])
    calibration = []
    for row in results["calibration"]:
        values = [
            f"{c['value']:.3f} ± {half_width(c):.3f}" for c in (row["coverage"], row["square"])
        ]
        calibration.append([row["truths"], row["frame"], *values])
    return join(
        "# A reference posterior for Burgers assimilation",
        "\n".join(f"- {line}" for line in made),
        f"{results['observed']} frames are seen, noise std {results['std']:g}; {config}.",
        "## The samples against the reference, mean and standard deviation over fields",
        table(["method", *METRICS.values(), "calls", "s"], rows, 1),
        "![Curves over time, and ranks](posterior.png)",
        "## The chains of each field",
        table(["field", *FACTS], chains, 0),
        "## The first frames of training fields, and draws of their Gaussian",
        table(["moment or share", "value"], prior, 1),
        "## How well the reference covers truths, with the half of a 95 % interval over fields",
        table(["truths", "frame", "coverage", "squared z-score"], calibration, 1),
    )
