r"""The figure of the benchmark: distance against calls."""

__all__ = ["draw"]

import math
from pathlib import Path
from typing import Any

from .tables import FLOOR, index, problems

# colours of Okabe and Ito: one for each family, whose members differ in line and marker
STYLES = {
    "unguided": ("#999999", ":", "x"),
    "DPS": ("#0072B2", "-", "o"),
    "DPS squared": ("#0072B2", "--", "s"),
    "DSG": ("#E69F00", "-", "D"),
    "LGD-MC": ("#56B4E9", "-", "v"),
    "Trust": ("#009E73", "-", "o"),
    "Trust 0-8": ("#009E73", "--", "s"),
    "Trust bound": ("#009E73", ":", "^"),
    "PiGDM": ("#CC79A7", "-", "o"),
    "PiGDM integrated": ("#CC79A7", "--", "s"),
    "C-PiGDM": ("#D55E00", "-", "D"),
}


def draw(results: dict[str, Any], path: Path) -> None:
    r"""Draws the distance against the calls, a panel for each problem."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    config, cells, tasks = results["config"], index(results), problems(results)
    budgets, columns = config["budgets"], 3
    lines = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(7.4, 2.0 * lines + 0.3), layout="constrained", dpi=200)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for spare in panels[len(tasks) :]:
        spare.set_axis_off()
    for k, (task, panel) in enumerate(zip(tasks, panels, strict=False)):
        prior, d, kind = task.split("-")
        panel.set_title(f"{prior}, d = {d}, {kind}", fontsize=8)
        floor = cells[task, FLOOR, "floor", "sw2"]
        low = max(floor["value"] - floor["sd"], 0.5 * floor["value"])
        panel.axhspan(low, floor["value"] + floor["sd"], color="0.85", zorder=0, lw=0)
        panel.axhline(floor["value"], color="0.6", lw=0.8, zorder=0)
        for i, (name, (colour, line, marker)) in enumerate(STYLES.items()):
            if (task, name, f"{budgets[0]} calls", "sw2") not in cells:
                continue
            rows = [cells[task, name, f"{calls} calls", "sw2"] for calls in budgets]
            x = [row["calls"] * 1.025 ** (i - len(STYLES) // 2) for row in rows]
            y = [row["value"] for row in rows]
            down = [min(row["sd"], 0.6 * row["value"]) for row in rows]
            panel.errorbar(
                x, y, yerr=(down, [row["sd"] for row in rows]), color=colour, ls=line, lw=1.0,
                marker=marker, ms=3, mew=0.8, elinewidth=0.7, label=name,
                mfc="white" if line != "-" else colour,
            )  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.xaxis.set_major_locator(FixedLocator(budgets))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.tick_params(labelsize=7)
        panel.grid(axis="y", lw=0.3, color="0.9")
        panel.set_axisbelow(True)
        if k % columns == 0:
            panel.set_ylabel("sliced W2", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    handles.append(panels[0].axhspan(math.nan, math.nan, color="0.85", lw=0))
    labels.append("exact samples")
    style = {"fontsize": 7.5, "frameon": False, "handlelength": 3}
    if len(panels) > len(tasks):
        panels[-1].legend(handles, labels, loc="center", **style)
    else:
        figure.legend(handles, labels, loc="outside upper center", ncols=4, **style)
    figure.supxlabel("calls of the denoiser", fontsize=8)
    figure.savefig(path)
