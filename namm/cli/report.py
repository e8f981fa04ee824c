r"""The report of a run: tables, a figure and one `results.json` from those of its stages."""

__all__ = ["main", "report"]

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from constraints import Constraint, InputError

from ..evaluation.costs import Results, compute, cost, shipped, training
from ..evaluation.plots import are_curves, draw_fields, residual_image
from ..evaluation.results import half, markdown, with_half
from ..training.checkpoint import build_part
from .parser import VerbParser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    *("distance", "chi2", "chi2_floor", "relative_error", "unsolved"),
    *("mmd", "spread", "spectrum", "cycle"),
)
Spent = dict[str, dict[str, float]]  # by task and method


def main(argv: Sequence[str]) -> None:
    r"""Writes the report that a command asks for.

    Arguments:
        argv: The options of the verb.
    """
    what = "Write the tables and the figure of finished stages."
    parser = VerbParser(prog="namm report", description=what)
    parser.add_argument("folder", type=Path, help="the folder of the runs, such as runs/burgers")
    report(parser.parse_args(argv).folder)


def report(folder: Path, runs: Path | None = None) -> None:
    r"""Gathers the results of all stages below a folder into `results.json`, `report.md` and
    `report.png`, and prints the tables and the paths.

    Arguments:
        folder: The folder of the runs of a problem.
        runs: The folder of the trainings that the results name, if it is another one.

    Raises:
        InputError: If no stage below it has results, if the results are those of several problems,
            or if two stages have results of the same method in the same task.
    """
    stages = {
        p.parent: json.loads(p.read_text()) for p in sorted(folder.glob("*/**/results.json"))
    }
    if problems := [path for path, results in stages.items() if "stages" in results]:
        raise InputError(
            f"{folder} holds the runs of several problems: give the folder of one of them, such "
            f"as {problems[0]}."
        )
    if not stages:
        raise InputError(f"There are no results below {folder}: run its test stages first.")
    trained = shipped(stages) | training(runs or folder)
    rows = unique(stages)
    spent: Spent = {}
    for results in stages.values():
        row = results["rows"][0]
        spent.setdefault(row["task"], {})[row["method"]] = compute(results, trained)
    gathered = {
        "rows": rows,
        "training": {
            stage: {key: value for key, value in found.items() if key != "loss"}
            for stage, found in trained.items()
        },
        "training_flops": spent,
        "stages": {
            str(path.relative_to(folder)): {k: v for k, v in results.items() if k != "rows"}
            for path, results in stages.items()
        },
    }
    (folder / "results.json").write_text(json.dumps(gathered, indent=1))
    tasks = sorted({row["task"] for row in rows})
    parts = [table(rows, task, spent[task]) for task in tasks]
    parts += [costs(trained)] if trained else []
    text = "\n\n".join(parts)
    (folder / "report.md").write_text(text + "\n")
    draw(stages, rows, trained, spent).savefig(folder / "report.png", dpi=170)
    print(f"\n{text}\n")
    for what, name in (
        ("results", "results.json"),
        ("report", "report.md"),
        ("figure", "report.png"),
    ):
        print(f"{what:8} {folder / name}")


def unique(stages: Results) -> list[dict[str, Any]]:
    r"""Returns the rows of all stages, with those of the data, which every stage reports, once for
    each task."""
    kept: dict[tuple[str, ...], dict[str, Any]] = {}
    owner: dict[tuple[str, str], Path] = {}
    for folder, results in stages.items():
        for row in results["rows"]:
            task, method = row["task"], row["method"]
            if method != "data" and owner.setdefault((task, method), folder) != folder:
                raise InputError(
                    f"{owner[task, method]} and {folder} both hold results of the method "
                    f"'{method}' in the task '{task}': give one of them another name with "
                    "--model.init_args.method or task, and run it again."
                )
            kept[task, method, row["protocol"], row["metric"]] = row
    return sorted(kept.values(), key=lambda row: (row["task"], row["method"] != "data"))


def table(rows: list[dict[str, Any]], task: str, spent: dict[str, float]) -> str:
    r"""Returns the Markdown table of one task: a line per method and protocol, a column per metric
    with the half-width of its 95 % interval. The column "times lower" compares the distance with
    that of the first method.

    Arguments:
        rows: The rows of the results.
        task: The task.
        spent: The counted operations of all training behind each method.
    """
    rows = [row for row in rows if row["task"] == task]
    columns = [column for column in COLUMNS if any(row["metric"] == column for row in rows)]
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["protocol"]), {})[row["metric"]] = row
    cost_columns = ("n", "calls", "vjps", "GFLOP", "s", "trained TFLOP")
    head = [task, "protocol", columns[0], "times lower", *columns[1:], *cost_columns]
    out: list[list[Any]] = [head, ["---"] * len(head)]
    # the first method of each protocol, of which the others are better by a factor
    first: dict[str, float] = {}
    for (method, protocol), cells in lines.items():
        one = cells["distance"]
        values = [with_half(cells[c]) if c in cells else "" for c in columns]
        lower = ""
        if method != "data":
            reference = first.setdefault(protocol, one["value"])
            lower = f"{reference / one['value']:.2g}" if reference > 0 and one["value"] > 0 else ""
        values.insert(1, lower)
        cost = [f"{one['calls']:g}", f"{one['vjps']:g}", f"{one['flops'] / 1e9:.3g}"]
        cost += [f"{one['seconds']:.2g}", f"{spent.get(method, 0) / 1e12:.3g}"]
        out.append([method, protocol, *values, one["n"], *cost])
    return markdown(out)


def costs(trained: dict[str, dict[str, Any]]) -> str:
    r"""Returns the Markdown table of what training cost."""
    head = ["training", "steps", "counted TFLOP", "minutes"]
    lines = [head, ["---"] * len(head)]
    return markdown([*lines, *([stage, *cost(found)] for stage, found in trained.items())])


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
        trained: What `training` returned.
        spent: The counted operations of all training behind each method, by task.
    """
    from matplotlib.figure import Figure

    tasks: dict[str, dict[str, Tensor]] = {}
    constraints: dict[str, Constraint | None] = {}
    for folder, results in stages.items():
        fields = torch.load(folder / "fields.pt", weights_only=True)
        task, recipe = results["rows"][0]["task"], results["config"].get("constraint")
        tasks.setdefault(task, {}).update(fields)
        constraints[task] = build_part(recipe) if recipe else None
    residuals = {
        task: {
            title: None if title == "measured" else residual_image(constraints[task], field)
            for title, field in fields.items()
        }
        for task, fields in tasks.items()
    }
    widest = max(len(fields) for fields in tasks.values())
    # below curves, residuals are a number
    plain = [
        are_curves(tasks[task]) or all(r is None for r in drawn.values())
        for task, drawn in residuals.items()
    ]
    heights = [*(2.4 if alone else 3.7 for alone in plain), 3.0]
    figure = Figure(figsize=(1.9 * widest + 1.0, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(len(tasks) + 1, 1, height_ratios=heights)
    for part, alone, (task, fields) in zip(parts, plain, tasks.items(), strict=False):
        what = "fields" if alone else "fields, and residuals of the constraint"
        part.suptitle(f"{task}: {what}", fontsize=9)
        draw_fields(part, fields, residuals[task], 1)
    dots, cost, loss = parts[-1].subplots(1, 3)
    _dots(dots, [row for row in rows if row["metric"] == "distance" and row["method"] != "data"])
    for stage, found in trained.items():
        if points := found["distance_by_flops"]:
            flops, distances = zip(*points, strict=True)
            tera = [f / 1e12 for f in flops]
            cost.plot(tera, distances, marker="o", ms=3, lw=1, label=f"{stage}, training")
        if points := found["loss"].get("train/loss"):
            loss.plot(*zip(*points, strict=True), lw=0.8, label=stage)
    behind = spent.get("generation", {})
    for row in rows:
        of_samples = row["metric"] == "distance" and row["task"] == "generation"
        if of_samples and behind.get(row["method"]):
            point = (behind[row["method"]] / 1e12, row["value"])
            cost.plot(*point, "*", ms=8, label=f"{row['method']}, test")
    cost.set(xlabel="training operations (TFLOP)", ylabel=r"distance $\ell$ of samples")
    loss.set(xlabel="training step", ylabel="training loss")
    for panel in (cost, loss):
        panel.set_yscale("log")
        panel.set_visible(bool(panel.lines))
        if panel.lines:
            panel.legend(fontsize=6, frameon=False)
    for panel in (dots, cost, loss):
        panel.tick_params(labelsize=7, which="both")
        panel.xaxis.label.set_size(8)
        panel.yaxis.label.set_size(8)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _dots(panel: Any, rows: list[dict[str, Any]]) -> None:
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
        halves = [half(row) for _, row in mine]
        panel.errorbar(values, [k for k, _ in mine], xerr=halves, fmt="o", ms=4)
    for k, row in enumerate(rows):
        if row["value"] == 0:  # which has no place on a logarithmic axis
            at = ("axes fraction", "data")
            panel.annotate("0", (0.01, k), xycoords=at, va="center", fontsize=7)
    panel.set_yticks(range(len(rows)), names)
    panel.set_ylim(-0.5, len(rows) - 0.5)
    panel.set_xscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(axis="x", lw=0.4)
    panel.set_xlabel(r"distance $\ell$, 95 % interval")
