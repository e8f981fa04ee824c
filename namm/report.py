r"""The report of a run: one table, one figure and one `results.json` from those of its stages."""

__all__ = ["report"]

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constraints import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {
    "generation": ("distance", "mmd", "spread", "cycle"),
    "inverse": ("distance", "chi2", "relative_error", "mmd", "spread", "cycle"),
}


def report(folder: Path) -> None:
    r"""Gathers the results of all stages below a folder into `results.json`, `report.md` and
    `report.png`, and prints the table and the paths.

    Arguments:
        folder: The folder of the runs of a problem.

    Raises:
        InputError: If no stage below it has results.
    """
    parts = {p.parent: json.loads(p.read_text()) for p in sorted(folder.glob("*/**/results.json"))}
    if not parts:
        raise InputError(f"There are no results below {folder}: run its test stages first.")
    rows = unique([row for part in parts.values() for row in part["rows"]])
    trained = training(folder)
    results = {
        "rows": rows,
        "training": {
            k: {key: v for key, v in t.items() if key != "curve"} for k, t in trained.items()
        },
        "stages": {
            str(p.relative_to(folder)): {k: v for k, v in part.items() if k != "rows"}
            for p, part in parts.items()
        },
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    text = "\n\n".join([*(table(rows, task) for task in tasks(rows)), training_table(trained)])
    (folder / "report.md").write_text(text + "\n")
    figure(folder, rows, trained).savefig(folder / "report.png", dpi=180)
    print(f"\n{text}\n")
    for name in ("results.json", "report.md", "report.png"):
        print(f"{name:13} {folder / name}")


def unique(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    r"""Returns the rows with the data's own, which every stage reports, kept once per task."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        kept[tuple(row[k] for k in ("task", "method", "protocol", "metric"))] = row
    return sorted(kept.values(), key=lambda row: (row["task"], row["protocol"]))


def tasks(rows: list[dict[str, Any]]) -> list[str]:
    r"""Returns the tasks that have rows, in order."""
    return sorted({row["task"] for row in rows})


def table(rows: list[dict[str, Any]], task: str) -> str:
    r"""Returns the Markdown table of one task: a line per method and protocol, a column per metric
    with the half-width of its 95 % interval.

    Arguments:
        rows: The rows of the results.
        task: The task.
    """
    rows = [row for row in rows if row["task"] == task]
    columns = COLUMNS.get(task, tuple(dict.fromkeys(row["metric"] for row in rows)))
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["protocol"]), {})[row["metric"]] = row
    head = ["method", "protocol", *columns, "n", "calls", "vjps", "GFLOP", "s"]
    out = [f"**{task}**", "", _line(head), _line(["---"] * len(head))]
    for (method, protocol), cells in sorted(lines.items(), key=_data_first):
        one = cells["distance"]
        cost = [f"{one['calls']:g}", f"{one['vjps']:g}", f"{one['flops'] / 1e9:.3g}"]
        values = [_value(cells[c]) if c in cells else "" for c in columns]
        out.append(_line([method, protocol, *values, one["n"], *cost, f"{one['seconds']:.2g}"]))
    return "\n".join(out)


def training_table(trained: dict[str, dict[str, Any]]) -> str:
    r"""Returns the Markdown table of what training cost."""
    head = ["training", "steps", "counted TFLOP", "minutes"]
    out = [_line(head), _line(["---"] * len(head))]
    for stage, t in trained.items():
        out.append(
            _line([stage, t["steps"], f"{t['flops'] / 1e12:.4g}", f"{t['seconds'] / 60:.2g}"])
        )
    return "\n".join(out)


def training(folder: Path) -> dict[str, dict[str, Any]]:
    r"""Returns, for each stage that trained, its steps, counted operations, seconds, loss curve
    and the distances of its validation samples against the operations so far.

    Arguments:
        folder: The folder of the runs.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained: dict[str, dict[str, Any]] = {}
    for checkpoint in sorted(folder.glob("*/checkpoints/last.ckpt")):
        stage = checkpoint.parent.parent
        events = EventAccumulator(str(stage), size_guidance={"scalars": 0})
        events.Reload()
        scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        if "flops" not in scalars:
            continue
        flops = scalars["flops"]
        per_step = flops[-1].value / (flops[-1].step + 1)
        finished = stage / "finished.json"
        trained[stage.name] = {
            "steps": _last_step(scalars),
            "flops": per_step * _last_step(scalars),
            "seconds": json.loads(finished.read_text())["seconds"]
            if finished.exists()
            else flops[-1].wall_time - flops[0].wall_time,
            "curve": {
                tag: [(e.step, e.value) for e in scalars[tag]]
                for tag in ("train/loss", "val/loss")
                if tag in scalars
            },
            "distance_against_flops": [
                ((e.step + 1) * per_step, e.value) for e in scalars.get("val/samples", [])
            ],
        }
    return trained


def figure(
    folder: Path, rows: list[dict[str, Any]], trained: dict[str, dict[str, Any]]
) -> "Figure":
    r"""Draws the figure of a run: samples of every method with their residuals, distances of all
    tasks, distance against training operations, and loss curves.

    Arguments:
        folder: The folder of the runs, with the `fields.pt` of the test stages.
        rows: The rows of the results.
        trained: What `training` returned.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.0), layout="constrained")
    bars, cost, loss = figure.subplots(1, 3)
    distances = [r for r in rows if r["metric"] == "distance"]
    names = [f"{r['method']}" for r in distances]
    bars.barh(range(len(distances)), [r["value"] for r in distances])
    bars.set_yticks(range(len(distances)), names, fontsize=6)
    for stage, t in trained.items():
        if points := t["distance_against_flops"]:
            cost.loglog(*zip(*points, strict=True), marker="o", ms=3, label=stage)
        if points := t["curve"].get("train/loss"):
            loss.semilogy(*zip(*points, strict=True), lw=0.8, label=stage)
    cost.legend(fontsize=6)
    loss.legend(fontsize=6)
    return figure


def _last_step(scalars: dict[str, Any]) -> int:
    return max(e.step for e in scalars["flops"]) + 1


def _data_first(item: tuple[tuple[str, str], Any]) -> tuple[bool, str]:
    (method, protocol), _ = item
    return method != "data", protocol


def _value(row: dict[str, Any]) -> str:
    half = (row["ci95"][1] - row["ci95"][0]) / 2
    return f"{row['value']:.3g} ± {half:.1g}"


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"
