r"""The distance of samples by the operations of training, with maps and without.

    python benchmarks/compute.py [configs/burgers --scale demo] [--out docs/results/compute]

trains maps, mirror diffusion model and fine-tuned maps with half, once and twice the configured
steps, and at each of them the plain diffusion model with the counted operations of the three
together, all from two seeds; and scores the samples of each. Those of the plain model, then mapped
by f(g(.)), ask what the mirror space adds over maps that are used as a restorer.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sweep import Chain, Rows, parse, run_chains, summary, write  # noqa: E402
from namm.__main__ import answered  # noqa: E402
from namm.run import plan  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTORS = (0.5, 1.0, 2.0)
EVALUATED = ("dm", "dm_restored", "mdm", "mdm_finetuned")
STAGES = ("namm", "mdm", "samples", "finetune", "dm", *(f"generation/{e}" for e in EVALUATED))
NOTE = (
    "Each setting is that multiple of the configured steps of the maps, of the mirror diffusion "
    "model and of fine-tuning; the plain model may use the operations of the three together. "
    "Distances and guards are means over the training seeds."
)


def chains(options: Namespace) -> list[Chain]:
    r"""Returns the chains of the sweep."""
    return [
        Chain(f"{factor:g}x", seed, STAGES, factor * options.steps)
        for factor in FACTORS
        for seed in options.seeds
    ]


def draw(rows: Rows) -> "Figure":
    r"""Draws the distance by the operations of training: a point for each training seed, with its
    95 % interval, and a line through the means.

    Arguments:
        rows: The rows of all chains.
    """
    from matplotlib.figure import Figure

    found = summary(rows)
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    for method in dict.fromkeys(method for _, method in found):
        cells = [cells for (_, name), cells in found.items() if name == method]
        tera = [cell["training_flops"] / 1e12 for cell in cells]
        (line,) = panel.plot(tera, [cell["distance"] for cell in cells], lw=1, label=method)
        each = [row for cell in cells for row in cell["each"]]
        panel.errorbar(
            [row["training_flops"] / 1e12 for row in each],
            [row["value"] for row in each],
            yerr=[(row["ci95"][1] - row["ci95"][0]) / 2 for row in each],
            fmt="o",
            ms=3,
            lw=1,
            color=line.get_color(),
        )
    panel.set(xscale="log", yscale="log")
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
    sys.exit(answered(main))
