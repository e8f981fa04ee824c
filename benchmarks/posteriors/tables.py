r"""The tables of the benchmark, all made from its numbers."""

__all__ = ["FLOOR", "index", "problems", "summarise"]

import statistics
from typing import Any

from ..common.numbers import Row, winners
from ..common.tables import join, mean_sd, table

FLOOR = "exact samples"
Cells = dict[tuple[str, str, str, str], Row]


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the tables as Markdown."""
    config, cells = results["config"], index(results)
    tasks, methods = problems(results), config["methods"]
    protocols = [f"{calls} calls" for calls in config["budgets"]]
    parts = ["# Solvers against known posteriors", "![SW2 against calls](quality.png)"]
    parts += ["## Best of each problem, and all within one pooled standard deviation of it"]
    for metric in ("sw2", "violation"):
        rows = []
        for task in tasks:
            row = [task]
            for protocol in protocols:
                first, *others = best(cells, task, protocol, metric, methods)
                value = mean_sd(cells[task, first, protocol, metric])
                row.append(", ".join([f"**{first}** {value}", *others]))
            rows.append(row)
        parts += [f"By {metric}:", table(["problem", *protocols], rows)]
    for protocol in protocols:
        parts += [f"## At {protocol}", medians(cells, tasks, protocol, methods)]
        for metric in ("sw2", "violation"):
            parts += [f"{metric}:", matrix(cells, tasks, protocol, metric, methods)]
    rows = []
    for name in methods:
        edges = [row for row in results["tuned"] if row["edge"] and row["method"] == name]
        where = ", ".join(f"{row['task']} at {row['protocol']}" for row in edges)
        rows += [[name, str(len(edges)), where]] if edges else []
    count = sum(int(row[1]) for row in rows)
    parts += [f"## Tuned values on the edge of their range: {count} of {len(results['tuned'])}"]
    parts += [table(["method", "number", "where"], rows)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in results["notes"])]
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    spent = f"{results['core_minutes']} core minutes, {results['minutes']} minutes"
    return join(*parts, f"{spent}, {results['jobs']} process(es); {versions}.")


def index(results: dict[str, Any]) -> Cells:
    r"""Returns the rows by task, method, protocol and metric."""
    keys = ("task", "method", "protocol", "metric")
    cells: Cells = {tuple(row[k] for k in keys): row for row in results["rows"]}
    for task, by_method in results["further"].items():
        for method, by_protocol in by_method.items():
            for protocol, by_metric in by_protocol.items():
                for metric, (value, sd) in by_metric.items():
                    cells[task, method, protocol, metric] = {"value": value, "sd": sd}
    return cells


def problems(results: dict[str, Any]) -> list[str]:
    r"""Returns the names of the problems, in order of task, prior and entries."""

    def key(task: str) -> tuple[int, str, int]:
        prior, d, kind = task.split("-")
        return ("noisy", "disc", "exact", "quantised").index(kind), prior, int(d)

    return sorted({row["task"] for row in results["rows"]}, key=key)


def best(cells: Cells, task: str, protocol: str, metric: str, methods: list[str]) -> list[str]:
    r"""Returns the best method, then the methods within one pooled standard deviation of it. A
    violation of noisy equations is best where exact samples have the same."""
    mine = {
        n: cells[task, n, protocol, metric]
        for n in methods
        if (task, n, protocol, metric) in cells
    }
    losses = {name: row["value"] for name, row in mine.items()}
    if metric == "violation" and task.endswith("noisy"):
        exact = cells[task, FLOOR, "floor", metric]["value"]
        losses = {name: abs(value - exact) for name, value in losses.items()}
    return winners(losses, {name: row["sd"] for name, row in mine.items()})


def medians(cells: Cells, tasks: list[str], protocol: str, methods: list[str]) -> str:
    r"""Returns the table of medians over problems, with the costs of a sample."""
    head = ["median over problems", "SW2 / floor", "1000 MMD²", "mean error", "cov. error"]
    head += ["chi² (noisy)", "% inside (disc)", "calls", "vjps", "calls + 2 vjps", "ms"]
    rows = []
    for name in [*methods, FLOOR]:
        of = "floor" if name == FLOOR else protocol

        def values(metric: str, key: str = "value", name: str = name, of: str = of) -> list[float]:
            found = (cells.get((task, name, of, metric)) for task in tasks)
            return [row[key] for row in found if row]

        if not (sw2 := values("sw2")):  # of these problems it solves none
            continue
        mine = [task for task in tasks if (task, name, of, "sw2") in cells]
        floors = [cells[task, FLOOR, "floor", "sw2"]["value"] for task in mine]
        each = [[a / b for a, b in zip(sw2, floors, strict=True)]]
        each += [[1e3 * v for v in values("mmd2")], values("mean_error"), values("cov_error")]
        each += [values("chi2"), values("percent_inside")]
        row = [name if len(mine) == len(tasks) else f"{name} ({len(mine)} of {len(tasks)})"]
        row += [f"{statistics.median(v):.3g}" if v else "" for v in each]
        calls, vjps, seconds = (
            statistics.median(values("sw2", key)) for key in ("calls", "vjps", "seconds")
        )
        rows.append(
            [*row, f"{calls:g}", f"{vjps:g}", f"{calls + 2 * vjps:g}", f"{1e3 * seconds:.2g}"]
        )
    return table(head, rows, 1)


def matrix(cells: Cells, tasks: list[str], protocol: str, metric: str, methods: list[str]) -> str:
    r"""Returns the table of a metric, with the best of each problem in bold."""
    rows = []
    for task in tasks:
        bold = best(cells, task, protocol, metric, methods)
        found = [(name, cells.get((task, name, protocol, metric))) for name in methods]
        row = [mean_sd(cell, name in bold) if cell else "-" for name, cell in found]
        rows.append([task, *row, mean_sd(cells[task, FLOOR, "floor", metric])])
    return table(["problem", *methods, FLOOR], rows, 1)
