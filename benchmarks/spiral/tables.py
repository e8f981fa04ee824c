r"""The tables of the spiral benchmark, all made from its numbers."""

__all__ = ["summarise"]

import statistics
from typing import Any

from ..common.numbers import Row, winners
from ..common.tables import join, mean_sd, table
from .tasks import METHODS, METRICS, TASKS, bounds

GUIDED = [name for name in METHODS if name != "unguided"]
MEANS = ("constraint", "distance", "score")
HEAD = ["mean abs. constraint", "mean distance", "score"]
Cells = dict[tuple[str, str, str, str], Row]


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the tables as Markdown."""
    keys = ("protocol", "task", "method", "metric")
    cells: Cells = {tuple(row[k] for k in keys): row for row in results["rows"]}  # type: ignore
    parts = ["# Trust sampling on the spiral", "![Samples for the four constraints](spiral.png)"]
    for protocol in results["config"]["protocols"]:
        parts += [f"## {protocol}", compared(results, cells, protocol)]
    parts += ["## Rounding of the budget", *rounding(results, cells)]
    parts += ["## Bound", bounded(results, cells)]
    parts += ["## Least mean distance at a mean constraint that all reach", at_level(results)]
    edges = [r for r in results["tuned"] if r["edge"]]
    parts += [
        f"## Tuned values at the end of their range: {len(edges)} of {len(results['tuned'])}"
    ]
    keys = ("method", "task", "steps", "knob", "value")
    parts += [table(keys, [[r[k] for k in keys] for r in edges])]
    parts += ["## Notes", "\n".join(f"- {note}" for note in results["notes"])]
    slopes = ", ".join(f"{name} {t['slope']}" for name, t in results["tasks"].items())
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    spent = f"{results['core_minutes']} core minutes, {results['minutes']} minutes"
    return join(*parts, f"Slopes: {slopes}. {spent}, {results['jobs']} process(es); {versions}.")


def best(cells: Cells, protocol: str, task: str, metric: str) -> list[str]:
    r"""Returns the best of the guided methods, then the methods within its own standard
    deviation."""
    sign = -1 if metric == "percent_hit" else 1
    rows = {name: cells[protocol, task, name, metric] for name in GUIDED}
    losses = {name: sign * row["value"] for name, row in rows.items()}
    return winners(losses, {name: row["sd"] for name, row in rows.items()}, pooled=False)


def compared(results: dict[str, Any], cells: Cells, protocol: str) -> str:
    r"""Returns the table of a protocol, the best in bold; the first one beside the published."""
    published = protocol == next(iter(results["config"]["protocols"]))
    head = ["task", "method", *HEAD, "median constraint", "median distance", "% hits", "% lost"]
    head += ["SW2", "calls", "calls + 2 vjps"]
    head += ["published constraint / distance"] if published else []
    rows = []
    for task in TASKS:
        for name in METHODS:
            row = [task, name]
            for metric in METRICS:
                cell = cells[protocol, task, name, metric]
                if metric in (*MEANS, "percent_hit", "sw2"):
                    row.append(mean_sd(cell, name in best(cells, protocol, task, metric)))
                else:
                    digits = 2 if metric == "percent_lost" else 3
                    row.append(f"{cell['value']:.{digits}g}")
            calls, vjps = (cells[protocol, task, name, "score"][k] for k in ("calls", "vjps"))
            row += [f"{calls:g}", f"{calls + 2 * vjps:g}"]
            pair = results["published"][task].get(name)
            row += [f"{pair[0]:g} / {pair[1]:g}" if pair else ""] if published else []
            rows.append(row)
    return table(head, rows, 2)


def at_level(results: dict[str, Any]) -> str:
    r"""Returns the table of the smallest mean distance among the values tried in the tuning, whose
    mean constraint is no more than a level that all solvers reach."""
    tried = {(r["task"], r["method"], r["steps"]): r["tried"] for r in results["tuned"]}
    rows = []
    for protocol, steps in results["config"]["protocols"].items():
        for task in TASKS:
            each = {name: tried[task, name, steps[name]] for name in GUIDED}
            level = max(min(t[1] for t in values) for values in each.values())
            least = [min(t[2] for t in values if t[1] <= level) for values in each.values()]
            row = [f"**{d:.3g}**" if d == min(least) else f"{d:.3g}" for d in least]
            rows.append([protocol, task, f"{level:.3g}", *row])
    return table(["protocol", "task", "level", *GUIDED], rows, 2)


def rounding(results: dict[str, Any], cells: Cells) -> list[str]:
    r"""Returns the table of the budgets, and the table of the errors under each."""
    budgets = []
    for name, facts in results["expected"].items():
        each = [cells["rounding", task, name, "inner"] for task in TASKS]
        calls = statistics.mean(r["calls"] for r in each)
        row = [name, f"{facts['mean']:.3f}", f"{facts['off']:.2f}", f"{facts['without']:.2f}"]
        budgets.append([*row, mean_sd(each[0]), f"{calls:.1f}"])
    errors = [
        [task, name, *errors_of(cells, "rounding", task, name)]
        for task in TASKS
        for name in results["expected"]
    ]
    head = ["budget", "expected mean J", "off the line", "levels without", "realised mean J"]
    return [
        table([*head, "realised calls"], budgets, 2),
        table(["task", "budget", *HEAD, "% hits"], errors, 2),
    ]


def bounded(results: dict[str, Any], cells: Cells) -> str:
    r"""Returns the table of the bounds."""
    config, rows = results["config"], []
    most, steps = config["calls"], config["inner"] * (config["steps"] - 1)
    for task in TASKS:
        for name in bounds():
            taken, needed = (
                cells["bound", task, name, m]["value"] for m in ("accepted", "needed_calls")
            )
            row = [task, name, *errors_of(cells, "bound", task, name)]
            row += [f"{100 * taken / steps:.0f}", f"{needed:.0f}"]
            rows.append([*row, f"{100 * (1 - needed / most):.0f}"])
    head = ["task", "bound", *HEAD, "% hits", "% steps taken", "calls needed", "% saved"]
    return table(head, rows, 2)


def errors_of(cells: Cells, protocol: str, task: str, name: str) -> list[str]:
    r"""Returns the cells of the errors, and of the share of hits."""
    hits = cells[protocol, task, name, "percent_hit"]["value"]
    return [*(mean_sd(cells[protocol, task, name, m]) for m in MEANS), f"{hits:.3g}"]
