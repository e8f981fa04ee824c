r"""The figure of the spiral benchmark: points of the methods, and the constraints."""

__all__ = ["Points", "draw"]

from pathlib import Path

import torch
from torch import Tensor

from constraints import Spiral

from .tasks import NEAR, TASKS, slope

Points = dict[tuple[str, str], Tensor]  # by task and method, with shape (B, 2, 1, 1)


def draw(points: Points, spiral: Spiral, path: Path) -> None:
    r"""Draws the points of the methods, a row for each task."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names, size = ("unguided", "DPS", "DSG", "Trust"), spiral.scale
    # the spiral ends on the right, and comes down lower than it goes up
    left, right, low, high = -1.0 * size, 1.16 * size, -1.04 * size, 0.86 * size
    figure = Figure(figsize=(7.2, 7.15), layout="constrained", dpi=200)
    panels = figure.subplots(len(TASKS), len(names), sharex=True, sharey=True)
    s = spiral.curve(torch.linspace(0, 1, 2000)).T.numpy()
    across, up = torch.linspace(left, right, 401), torch.linspace(low, high, 401)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"))[None]
    slopes = {key: slope(task, spiral) for key, task in TASKS.items()}
    for (key, task), line in zip(TASKS.items(), panels, strict=True):
        value = task.polynomial(raw=True).residual(grid)[0, 0].numpy()
        line[0].set_ylabel(task.text, fontsize=9)
        for name, panel in zip(names, line, strict=True):
            y = points[key, name]
            away = task.polynomial()(y)
            distance = spiral(y)
            hit = (away / slopes[key] <= NEAR) & (distance <= NEAR)
            panel.plot(*s, color="0.78", lw=1.0, zorder=1)
            if task.inequality:
                panel.contourf(across, up, value, levels=[-1e9, 0], colors=["#009E73"], alpha=0.13)
            panel.contour(across, up, value, levels=[0], colors=["#009E73"], linewidths=0.9)
            for mask, colour in ((~hit, "#D55E00"), (hit, "#0072B2")):
                dots = y[mask].flatten(1).T.cpu().numpy()
                panel.scatter(*dots, s=4, lw=0, color=colour, alpha=0.55, zorder=3)
            u, v = y.flatten(1).T.cpu().numpy()
            outside = int(np.sum((u < left) | (u > right) | (v < low) | (v > high)))
            text = f"{float(away.mean()):.2g} / {float(distance.mean()):.2g}"
            text += f" ({outside} outside)" if outside else ""
            panel.annotate(
                text, (0.5, -0.03), xycoords="axes fraction", ha="center", va="top", fontsize=7
            )
            panel.set(xlim=(left, right), ylim=(low, high), xticks=[], yticks=[])
            panel.set_aspect("equal")
            for spine in panel.spines.values():
                spine.set(color="0.7", lw=0.6)
    for name, panel in zip(names, panels[0], strict=True):
        panel.annotate(
            name, (0.5, 1.04), xycoords="axes fraction", ha="center", va="bottom", fontsize=9
        )
    marker = {"ls": "", "marker": "o", "ms": 3.5, "mew": 0}
    figure.legend(
        handles=[
            Line2D([], [], color="0.78", label="data"),
            Line2D([], [], color="#009E73", label="constraint"),
            Line2D([], [], color="#0072B2", label=f"within {NEAR} of both", **marker),
            Line2D([], [], color="#D55E00", label="other samples", **marker),
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path)
