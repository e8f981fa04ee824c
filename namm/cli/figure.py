r"""The figure of a report."""

__all__ = ["draw"]

from typing import TYPE_CHECKING, Any

from torch import Tensor

from constraints import Constraint, Given

from ..evaluation.plots import are_curves, draw_fields, residual_image, unmarked
from ..evaluation.results import half_width
from ..evaluation.training_costs import Results
from ..training.io import read_plain
from ..training.recipes import build

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Spent = dict[str, dict[str, float]]  # the operations of all training, by task and method


def draw(
    stages: Results,
    rows: list[dict[str, Any]],
    trained: dict[str, dict[str, Any]],
    spent: Spent,
) -> "Figure":
    r"""Draws the figure of a run: fields of every task and method with their residuals; below them
    the distances with their intervals, the distance by training operations, and the losses.

    Arguments:
        stages: The results by folder, which also holds the `fields.pt` of the stage.
        rows: The rows of all results.
        trained: The trainings behind the results, by name.
        spent: The counted operations of all training behind each method, by task.
    """
    from matplotlib.figure import Figure

    tasks: dict[str, dict[str, Tensor]] = {}
    constraints: dict[str, Constraint | None] = {}
    given: dict[tuple[str, str], Given] = {}  # by task and title
    for folder, results in stages.items():
        fields = read_plain(folder / "fields.pt")
        task, recipe = results["rows"][0]["task"], results["config"].get("constraint")
        tasks.setdefault(task, {}).update(fields)
        if (folder / "given.pt").exists():
            data = read_plain(folder / "given.pt")
            given |= {(task, title): data for title in fields}
        constraints[task] = build(recipe, Constraint) if recipe else None
    residuals = {
        task: {
            title: None
            if title == "measured"
            else residual_image(constraints[task], field, given.get((task, title)))
            for title, field in fields.items()
        }
        for task, fields in tasks.items()
    }
    widest = max(len(fields) for fields in tasks.values())
    # below curves, residuals are a number
    bare = [
        are_curves(tasks[task]) or all(r is None for r in drawn.values())
        for task, drawn in residuals.items()
    ]
    heights = [*(2.4 if alone else 3.7 for alone in bare), 3.0]
    figure = Figure(figsize=(1.9 * widest + 1.0, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(len(tasks) + 1, 1, height_ratios=heights)
    for part, alone, (task, fields) in zip(parts, bare, tasks.items(), strict=False):
        title = "fields" if alone else "fields, and residuals of the constraint"
        part.suptitle(unmarked(f"{task}: {title}"), fontsize=9)
        draw_fields(part, fields, residuals[task], 1)
    rows = [row for row in rows if row["value"] is not None]
    distance, training, loss = parts[-1].subplots(1, 3)
    draw_distances(
        distance, [row for row in rows if row["metric"] == "distance" and row["method"] != "data"]
    )
    for stage, found in trained.items():
        if points := found["distance_by_flops"]:
            flops, distances = zip(*points, strict=True)
            tera = [f / 1e12 for f in flops]
            training.plot(
                tera, distances, marker="o", ms=3, lw=1, label=unmarked(f"{stage}, training")
            )
        if points := found["loss"].get("train/loss"):
            loss.plot(*zip(*points, strict=True), lw=0.8, label=unmarked(stage))
    behind = spent.get("generation", {})
    for row in rows:
        of_samples = row["metric"] == "distance" and row["task"] == "generation"
        if of_samples and behind.get(row["method"]):
            point = (behind[row["method"]] / 1e12, row["value"])
            training.plot(*point, "*", ms=8, label=unmarked(f"{row['method']}, test"))
    training.set(xlabel="training operations (TFLOP)", ylabel=r"distance $\ell$ of samples")
    loss.set(xlabel="training step", ylabel="training loss")
    for panel in (training, loss):
        panel.set_yscale("log")
        panel.set_visible(bool(panel.lines))
        if panel.lines:
            panel.legend(fontsize=6, frameon=False)
    for panel in (distance, training, loss):
        panel.tick_params(labelsize=7, which="both")
        panel.xaxis.label.set_size(8)
        panel.yaxis.label.set_size(8)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def draw_distances(panel: Any, rows: list[dict[str, Any]]) -> None:
    r"""Draws the distance of each row with its interval, a colour for each task."""
    from matplotlib.ticker import NullFormatter

    rows = rows[::-1]
    several = len({row["protocol"] for row in rows}) > 1
    names = [f"{r['method']} ({r['protocol']})" if several else r["method"] for r in rows]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if len(tasks) > 1:
        names = [f"{row['task']}: {name}" for row, name in zip(rows, names, strict=True)]
    for task in tasks:
        mine = [(k, row) for k, row in enumerate(rows) if row["task"] == task]
        values = [row["value"] for _, row in mine]
        halves = [half_width(row) for _, row in mine]
        panel.errorbar(values, [k for k, _ in mine], xerr=halves, fmt="o", ms=4)
    for k, row in enumerate(rows):
        if row["value"] == 0:  # which has no place on a logarithmic axis
            at = ("axes fraction", "data")
            panel.annotate("0", (0.01, k), xycoords=at, va="center", fontsize=7)
    panel.set_yticks(range(len(rows)), [*map(unmarked, names)])
    panel.set_ylim(-0.5, len(rows) - 0.5)
    panel.set_xscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(axis="x", lw=0.4)
    panel.set_xlabel(r"distance $\ell$, 95 % interval")
