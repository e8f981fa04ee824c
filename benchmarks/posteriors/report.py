r"""The tables and the figure of the benchmark, all made from its numbers."""

__all__ = ["draw", "summarise"]

import math
import statistics
from pathlib import Path
from typing import Any

FLOOR = "exact samples"
FAMILIES = {
    "Trust": ("Trust", "Trust 0-8", "Trust bound"),
    "C-PiGDM": ("C-PiGDM",),
}
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
Table = dict[tuple[str, str, str, str], dict[str, Any]]


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the results as Markdown.

    Arguments:
        results: The contents of `results.json`.
    """
    config, table = results["config"], _table(results)
    tasks, protocols = _problems(results), [f"{calls} calls" for calls in config["budgets"]]
    ranked = config["methods"]
    out = [
        "# How close the solvers come to posteriors that are known",
        "",
        "Made by `python -m benchmarks.posteriors`; every word below that depends on a number is "
        "made from `results.json`. The priors have exact denoisers, so that what is measured is "
        "the solver alone; nothing here says how a solver stands the errors of a network.",
        "",
        f"Problems are named prior-entries-task: `noisy` is a random linear measurement of a "
        f"quarter of the entries with noise of std {config['tasks']['noisy']}, `exact` one "
        "without noise, `disc` an inequality on the first two entries that half of the prior "
        "satisfies. "
        f"Evaluation: {config['seeds']} seeds of {config['n']} samples, one measurement for each "
        f"problem, against {config['reference']} exact samples; ± is the standard deviation over "
        f"seeds. The floor is that of exact samples. Tuning: {config['settings']} settings for "
        f"each solver on two other measurements, for the sliced Wasserstein distance (SW2); at "
        f"{config['budgets'][-1]} calls those with the interval (DSG) or the start (PiGDM, "
        "C-PiGDM) that was best before, which are half of them.",
        "",
        "![Sliced Wasserstein distance against calls](quality.png)",
        "",
        "## Who wins where",
        "",
        "The best of each problem, and after it all within one pooled standard deviation.",
        "",
    ]
    for metric, title in (
        ("sw2", "By SW2"),
        ("violation", "By violation, for `noisy` by how far it is from that of exact samples"),
    ):
        rows = []
        for task in tasks:
            wins = [_winners(table, task, protocol, metric, ranked) for protocol in protocols]
            rows.append(
                [
                    task,
                    *[
                        _names(table, task, p, metric, w)
                        for p, w in zip(protocols, wins, strict=True)
                    ],
                ]
            )
        out += [f"{title}:", "", *_markdown(["problem", *protocols], rows), ""]
    for family in FAMILIES:
        out += ["", f"### Where {family} is not the winner", ""]
        out += _losses(table, tasks, protocols, family, ranked)
    for protocol in protocols:
        out += ["", f"## At {protocol}", ""]
        out += _medians(table, tasks, protocol, ranked)
        out += ["", "SW2; the best in bold, with all within one pooled standard deviation:", ""]
        out += _matrix(table, tasks, protocol, "sw2", ranked)
        out += [
            "",
            "Violation: the RMS residual of an equation, or the mean depth in the disc:",
            "",
        ]
        out += _matrix(table, tasks, protocol, "violation", ranked)
    out += ["", "## Tuned values on the edge of their range", ""]
    edges = [row for row in results["tuned"] if row["edge"]]
    out += [f"{len(edges)} of {len(results['tuned'])}; their true optimum may lie outside.", ""]
    for name in ranked:
        mine = [f"{row['task']} at {row['protocol']}" for row in edges if row["method"] == name]
        out += [f"- {name} ({len(mine)}): {', '.join(mine)}"] if mine else []
    out += ["", "## Notes", "", *[f"- {note}" for note in results["notes"]], ""]
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    spent = f"{results['core_minutes']} minutes of a core, {results['minutes']} of wall time"
    out += [f"{spent} with {results['jobs']} process(es) on a shared machine; {versions}.", ""]
    return "\n".join(out)


def draw(results: dict[str, Any], path: Path) -> None:
    r"""Draws the distance against the calls, a panel for each problem.

    Arguments:
        results: The contents of `results.json`.
        path: The file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    config, table, tasks = results["config"], _table(results), _problems(results)
    budgets, columns = config["budgets"], 3
    lines = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(7.4, 2.0 * lines + 0.3), layout="constrained", dpi=200)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for spare in panels[len(tasks) :]:
        spare.set_axis_off()
    for k, (task, panel) in enumerate(zip(tasks, panels, strict=False)):
        prior, d, kind = task.split("-")
        panel.set_title(f"{prior}, d = {d}, {kind}", fontsize=8)
        floor = table[task, FLOOR, "floor", "sw2"]
        low = max(floor["value"] - floor["sd"], 0.5 * floor["value"])
        panel.axhspan(low, floor["value"] + floor["sd"], color="0.85", zorder=0, lw=0)
        panel.axhline(floor["value"], color="0.6", lw=0.8, zorder=0)
        for i, (name, (colour, line, marker)) in enumerate(STYLES.items()):
            if (task, name, f"{budgets[0]} calls", "sw2") not in table:
                continue
            rows = [table[task, name, f"{calls} calls", "sw2"] for calls in budgets]
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


def _table(results: dict[str, Any]) -> Table:
    names = ("task", "method", "protocol", "metric")
    table = {tuple(row[n] for n in names): row for row in results["rows"]}
    for task, methods in results["further"].items():
        for method, protocols in methods.items():
            for protocol, metrics in protocols.items():
                for metric, (value, sd) in metrics.items():
                    table[task, method, protocol, metric] = {"value": value, "sd": sd}
    return table


def _problems(results: dict[str, Any]) -> list[str]:
    found = list(dict.fromkeys(row["task"] for row in results["rows"]))
    order = ("noisy", "disc", "exact")

    def key(task: str) -> tuple[int, str, int]:
        prior, d, kind = task.split("-")
        return order.index(kind), prior, int(d)

    return sorted(found, key=key)


def _loss(table: Table, task: str, protocol: str, metric: str, name: str) -> float:
    value = table[task, name, protocol, metric]["value"]
    if metric == "violation" and task.endswith("noisy"):
        return abs(value - table[task, FLOOR, "floor", metric]["value"])
    return value


def _winners(table: Table, task: str, protocol: str, metric: str, ranked: list[str]) -> list[str]:
    r"""Returns the best method, and after it those within one pooled standard deviation."""
    ranked = [name for name in ranked if (task, name, protocol, metric) in table]
    losses = {name: _loss(table, task, protocol, metric, name) for name in ranked}
    first, *others = sorted(ranked, key=losses.__getitem__)

    def pooled(name: str) -> float:
        a, b = (table[task, n, protocol, metric]["sd"] for n in (first, name))
        return math.sqrt((a**2 + b**2) / 2)

    return [first, *[n for n in others if losses[n] - losses[first] <= pooled(n)]]


def _value(row: dict[str, Any]) -> str:
    return f"{row['value']:.3g} ± {row['sd']:.1g}"


def _names(table: Table, task: str, protocol: str, metric: str, names: list[str]) -> str:
    first, *others = names
    tied = f", {', '.join(others)}" if others else ""
    return f"**{first}** {_value(table[task, first, protocol, metric])}{tied}"


def _losses(
    table: Table, tasks: list[str], protocols: list[str], family: str, ranked: list[str]
) -> list[str]:
    r"""Returns a sentence for each budget: where the best of a family wins, ties and loses."""
    out = []
    for protocol in protocols:
        best, ties, lost = [], [], []
        for task in tasks:
            winners = _winners(table, task, protocol, "sw2", ranked)
            mine = min(FAMILIES[family], key=lambda n: _loss(table, task, protocol, "sw2", n))
            if winners[0] in FAMILIES[family]:
                best.append(task)
            elif set(winners) & set(FAMILIES[family]):
                ties.append(task)
            else:
                ours, theirs = (table[task, n, protocol, "sw2"] for n in (mine, winners[0]))
                who = f"{winners[0]} {_value(theirs)}"
                lost.append(f"{task} ({mine} {_value(ours)}, {who})")
        named = f" ({', '.join(best)})" if best else ""
        tied = f" ({', '.join(ties)})" if ties else ""
        text = f"- {protocol}: best by SW2 on {len(best)} of {len(tasks)} problems{named}, "
        text += f"within one standard deviation on {len(ties)}{tied}, beaten on {len(lost)}"
        out.append(text + (f": {'; '.join(lost)}." if lost else "."))
    return out


def _medians(table: Table, tasks: list[str], protocol: str, ranked: list[str]) -> list[str]:
    r"""Returns the table of medians over problems, with what a sample costs."""
    metrics = ("sw2", "mmd2", "mean_error", "cov_error")
    head = ["median over problems", "SW2 / floor", "MMD² × 10³", "mean error", "cov. error"]
    head += ["chi² (noisy)", "% inside (disc)", "calls", "vjps", "calls + 2 vjps", "ms"]
    rows = []
    for name in [*ranked, FLOOR]:
        of = "floor" if name == FLOOR else protocol
        mine = [task for task in tasks if (task, name, of, "sw2") in table]
        row = [name if len(mine) == len(tasks) else f"{name} ({len(mine)} of {len(tasks)})"]
        for metric in metrics:
            each = [table[task, name, of, metric]["value"] for task in mine]
            if metric == "sw2":
                floors = [table[task, FLOOR, "floor", metric]["value"] for task in mine]
                each = [a / b for a, b in zip(each, floors, strict=True)]
            row.append(f"{statistics.median(each) * (1e3 if metric == 'mmd2' else 1):.3g}")
        for metric in ("chi2", "percent_inside"):
            each = [
                table[task, name, of, metric]["value"]
                for task in tasks
                if (task, name, of, metric) in table
            ]
            row.append(f"{statistics.median(each):.3g}" if each else "")
        spent = [table[task, name, of, "sw2"] for task in mine]
        calls, vjps, seconds = (
            statistics.median(row[k] for row in spent) for k in ("calls", "vjps", "seconds")
        )
        row += [f"{calls:g}", f"{vjps:g}", f"{calls + 2 * vjps:g}", f"{1e3 * seconds:.2g}"]
        rows.append(row)
    return _markdown(head, rows)


def _matrix(
    table: Table, tasks: list[str], protocol: str, metric: str, ranked: list[str]
) -> list[str]:
    rows = []
    for task in tasks:
        bold = _winners(table, task, protocol, metric, ranked)
        cells = []
        for name in ranked:
            if (task, name, protocol, metric) not in table:
                cells.append("–")
                continue
            value = _value(table[task, name, protocol, metric])
            cells.append(f"**{value}**" if name in bold else value)
        rows.append([task, *cells, _value(table[task, FLOOR, "floor", metric])])
    return _markdown(["problem", *ranked, FLOOR], rows)


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] + ["---:" if len(head) > 5 else "---"] * (len(head) - 1)
    return [f"| {' | '.join(row)} |" for row in [head, rule, *rows]]
