r"""The distance of samples by the operations of training, with maps and without.

    python -m benchmarks.sweep.compute [configs/burgers.yaml --scale demo] [--out FOLDER]

trains maps, mirror diffusion model and fine-tuned maps with half, once and twice the configured
steps, and at each of them the plain diffusion model with the counted operations of the three
together, all from two seeds; and scores the samples of each. Those of the plain model, then mapped
by f(g(.)), ask what the mirror space adds over maps that are used as a restorer.
"""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

import torch

from namm.cli.plan import plan
from namm.evaluation.results import half_width

from ..common.program import launch
from .chains import Chain, Rows, parse, run_chains, summary, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTORS = (0.5, 1.0, 2.0)
SPREAD, CYCLE = 0.1, 0.02  # what the guards allow, the second in field units
EVALUATED = ("dm", "dm_restored", "mdm", "mdm_finetuned")
STAGES = ("namm", "mdm", "samples", "finetune", "dm", *(f"generation/{e}" for e in EVALUATED))
NOTE = (
    "Each setting is that multiple of the configured steps of the maps, of the mirror diffusion "
    "model and of fine-tuning; the plain model may use the operations of the three together. "
    "Distances and guards are means over the training seeds. In the figure a point is hollow "
    f"where the spread is more than {SPREAD:g} from 1 or the cycle error above {CYCLE:g}."
)


def chains(options: Namespace) -> list[Chain]:
    r"""Returns the chains of the sweep."""
    return [
        Chain(f"{factor:g}x", seed, STAGES, factor * options.steps)
        for factor in FACTORS
        for seed in options.seeds
    ]


def guarded(rows: Rows, of: dict[str, Any]) -> bool:
    r"""Returns whether the samples of a row are as widely spread as the data, to a tenth, and the
    maps behind them give data back, to 0.02."""
    keys = ("setting", "training_seed", "method")
    own = {row["metric"]: row["value"] for row in rows if all(row[k] == of[k] for k in keys)}
    return abs(own["spread"] - 1) <= SPREAD and own["cycle"] <= CYCLE


def draw(rows: Rows) -> "Figure":
    r"""Draws the distance by the operations of training: a point for each training seed, with its
    95 % interval, hollow where a guard fails, and a line through the means."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    found = summary(rows)
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    for method in dict.fromkeys(method for _, method in found):
        cells = [cells for (_, name), cells in found.items() if name == method]
        tera = [cell["training_flops"] / 1e12 for cell in cells]
        (line,) = panel.plot(tera, [cell["distance"] for cell in cells], lw=1, label=method)
        each = [row for cell in cells for row in cell["each"]]
        for row in each:
            panel.errorbar(
                row["training_flops"] / 1e12,
                row["value"],
                yerr=half_width(row),
                fmt="o",
                ms=4,
                lw=1,
                color=line.get_color(),
                mfc=line.get_color() if guarded(rows, row) else "white",
            )
    panel.set(xscale="log", yscale="log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda tera, _: f"{tera:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set(xlabel="training operations (TFLOP)", ylabel=r"distance $\ell$ of samples")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=7, frameon=False)
    return figure


def main() -> None:
    r"""Trains, scores, and writes the table and the figure."""
    options = parse(__doc__, "compute")
    planned = plan(options.problem, options.scale)
    todo = chains(options)
    rows = run_chains(todo, planned, options.runs)
    write(options, todo, rows, NOTE)
    draw(rows).savefig(options.out / "compute.png", dpi=170)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    launch(main)
