r"""The report of the spiral benchmark: tables, what they say, and the figure."""

import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from constraints import Spiral

from .tasks import LABELS, METHODS, METRICS, NEAR, TASKS, bounds, slope

Table = dict[tuple[str, str, str, str], dict[str, Any]]


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the results as Markdown, made from the contents of `results.json`."""
    config = results["config"]
    table: Table = {
        (r["protocol"], r["task"], r["method"], r["metric"]): r for r in results["rows"]
    }
    protocols, n = list(config["protocols"]), config["n"]
    out = [
        "# Trust sampling on the spiral",
        "",
        "Made by `python -m benchmarks.spiral`; every number and every word below that depends on "
        "one is made from `results.json`. The prior is a small network trained on two turns of a "
        "spiral (`namm run configs/spiral --to diffusion`). The constraint alone guides: the "
        "measurement is the value of a polynomial, to be 0, with a std of 1.",
        "",
        f"Each cell is {config['seeds']} seeds of {n} samples; ± is the standard deviation over "
        f"seeds. A *hit* is a sample within {config['near']} of the constraint and of the curve; "
        "*SW2* is the sliced Wasserstein distance to the data that are that near to the "
        "constraint, which also sees crossings that are left out. "
        f"*Lost* is a sample more than {config['lost']:g} radii of the spiral from its middle: it "
        "counts as if one radius from the constraint and from the curve, since a single one at "
        "1e20 would decide a mean. "
        "The disc is off centre, because one around the origin is crossed by the spiral once "
        "only. The published numbers are those of another spiral and network, and of another "
        f"disc. They are at equal steps and were counted differently: Trust took up to 5 gradient "
        "steps and up to 40 repeats per level, so that calls were not equal.",
        "",
        f"Tuning: {config['settings']} values for each solver, task and number of steps, uniform "
        f"in the logarithm, on {config['tune']} samples of other seeds, for the smallest *score*: "
        "the mean of |constraint| / slope + distance, where the slope is the mean length of the "
        "constraint's gradient where it crosses the spiral ("
        + ", ".join(f"{name} {t['slope']}" for name, t in results["tasks"].items())
        + "), so that both terms are lengths in the plane.",
        "",
        "![Samples for the four constraints](spiral.png)",
        "",
        "Samples at equal calls. Blue: hits; orange: all others. Below each panel: mean "
        "|constraint| / mean distance to the curve.",
    ]
    titles = {
        protocols[0]: f"Equal steps, as published: Trust has {config['calls']} calls",
        protocols[1]: "Equal calls, few",
        protocols[2]: "Equal calls, many",
    }
    for protocol, title in titles.items():
        out += ["", f"## {protocol}", "", title + ".", ""]
        out += _protocol(results, table, protocol, protocol == protocols[0])
    out += ["", "## Rounding of the budget", ""]
    out += _rounding(results, table)
    out += ["", "## Bound", ""]
    out += _bound(results, table)
    out += ["", "## By another criterion", "", *_level(results)]
    edges = [r for r in results["tuned"] if r["edge"]]
    out += ["", "## Tuned values at the end of their range", ""]
    out += [
        f"{len(edges)} of {len(results['tuned'])}"
        + "".join(
            f"; {r['method']}, {r['task']}, {r['steps']} steps: {r['knob']} {r['value']}"
            for r in edges
        )
        + "."
    ]
    out += ["", "## Notes", "", *[f"- {note}" for note in results["notes"]]]
    about = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    spent = f"{results['core_minutes']} minutes of a core, {results['minutes']} of wall time"
    spent += f" with {results['jobs']} process(es)"
    out += [f"- {spent} on a shared machine; {about}"]
    out += ["", "## What it shows", "", *_conclusions(results, table), ""]
    return "\n".join(out)


def _protocol(results: dict[str, Any], table: Table, protocol: str, published: bool) -> list[str]:
    head = ["task", "method", "mean abs. constraint", "mean distance", "score"]
    head += ["median constraint", "median distance", "% hits", "% lost", "SW2"]
    head += ["calls", "calls + 2 vjps"]
    head += ["published constraint / distance"] if published else []
    rows = []
    for task in TASKS:
        for name in METHODS:
            cells = {metric: table[protocol, task, name, metric] for metric in METRICS}
            row = [task, name]
            for metric in ("constraint", "distance", "score"):
                text = _value(cells[metric])
                best = name in _winners(table, protocol, task, metric)
                row.append(f"**{text}**" if best else text)
            row += [f"{cells[f'median_{key}']['value']:.3g}" for key in ("constraint", "distance")]
            for metric in ("percent_hit", "percent_lost", "sw2"):
                text = _value(cells[metric])
                if metric == "percent_lost":
                    text = f"{cells[metric]['value']:.2g}"
                elif name in _winners(table, protocol, task, metric):
                    text = f"**{text}**"
                row.append(text)
            calls, vjps = cells["score"]["calls"], cells["score"]["vjps"]
            row += [f"{calls:g}", f"{calls + 2 * vjps:g}"]
            if published:
                pair = results["published"][task].get(name)
                row.append(f"{pair[0]:g} / {pair[1]:g}" if pair else "")
            rows.append(row)
    note = "In bold the best of the guided, with all within its standard deviation; the "
    note += "distance of `unguided` is the floor that this prior sets."
    return [*_markdown(head, rows), "", note]


def _level(results: dict[str, Any]) -> list[str]:
    tried = {(r["task"], r["method"], r["steps"]): r["tried"] for r in results["tuned"]}
    guided = [name for name in METHODS if name != "unguided"]
    rows = []
    for protocol, steps in results["config"]["protocols"].items():
        for task in TASKS:
            each = {name: tried[task, name, steps[name]] for name in guided}
            level = max(min(t[1] for t in values) for values in each.values())
            least = {n: min(t[2] for t in v if t[1] <= level) for n, v in each.items()}
            best = min(least.values())
            cells = [f"**{d:.3g}**" if d == best else f"{d:.3g}" for d in least.values()]
            rows.append([protocol, task, f"{level:.3g}", *cells])
    out = "The smallest mean distance among the values tried whose mean |constraint| is no more "
    out += f"than a level that all solvers reach; of the {results['config']['tune']} samples of "
    return [
        out + "the tuning, so that this only says whether the score above decides who wins.",
        "",
        *_markdown(["protocol", "task", "level", *guided], rows),
    ]


def _rounding(results: dict[str, Any], table: Table) -> list[str]:
    config = results["config"]
    out = [
        "The published code rounds the budget of a level up with the probability of going down. "
        f"Trust, {config['steps']} steps, no bound, the step of the constant budget, "
        f"{config['seeds']} seeds of {config['ablation']} samples, each with its own draws of the "
        "budget. *Off the line*: the RMS over levels of the expected budget less the one meant; "
        "*levels without*: those expected to get no gradient step.",
        "",
    ]
    rows = []
    for name, facts in results["expected"].items():
        each = [table["rounding", task, name, "inner"] for task in TASKS]
        calls = statistics.mean(r["calls"] for r in each)
        row = [name, f"{facts['mean']:.3f}", f"{facts['off']:.2f}", f"{facts['without']:.2f}"]
        rows.append([*row, _value(each[0]), f"{calls:.1f}"])
    head = ["budget", "expected mean J", "off the line", "levels without", "realised mean J"]
    out += [*_markdown([*head, "realised calls"], rows), ""]
    rows = []
    for task in TASKS:
        for name in results["expected"]:
            cells = [table["rounding", task, name, m] for m in ("constraint", "distance", "score")]
            hits = table["rounding", task, name, "percent_hit"]
            rows.append([task, name, *map(_value, cells), f"{hits['value']:.3g}"])
    head = ["task", "budget", "mean abs. constraint", "mean distance", "score", "% hits"]
    return [*out, *_markdown(head, rows)]


def _bound(results: dict[str, Any], table: Table) -> list[str]:
    config = results["config"]
    out = [
        "The norm of the predicted noise above which a sample takes no further step at a level: a "
        "number (the root of the two entries, and twice that), or a quantile of unguided runs at "
        f"each level. Trust, {config['steps']} steps, budget {config['inner']}, its own tuned "
        f"step, {config['seeds']} seeds of {config['ablation']} samples. *Saved*: the share of "
        "all calls that a sample by itself would not need.",
        "",
    ]
    rows = []
    most, steps = config["calls"], config["inner"] * (config["steps"] - 1)
    for task in TASKS:
        for name in bounds():
            cells = [table["bound", task, name, m] for m in ("constraint", "distance", "score")]
            hits, taken, needed = (
                table["bound", task, name, m]["value"]
                for m in ("percent_hit", "accepted", "needed_calls")
            )
            row = [task, name, *map(_value, cells), f"{hits:.3g}"]
            row += [f"{100 * taken / steps:.0f}", f"{needed:.0f}"]
            rows.append([*row, f"{100 * (1 - needed / most):.0f}"])
    head = ["task", "bound", "mean abs. constraint", "mean distance", "score", "% hits"]
    return [*out, *_markdown([*head, "% steps taken", "calls needed", "% saved"], rows)]


def _conclusions(results: dict[str, Any], table: Table) -> list[str]:
    names = {
        "constraint": "nearest to the constraint",
        "distance": "nearest to the curve",
        "score": "best by the score of both, for which all were tuned",
        "percent_hit": "most hits",
        "sw2": "by SW2 nearest to the data that meet the constraint, for which none was tuned",
    }
    out = []
    for protocol in results["config"]["protocols"]:
        out += [f"At {protocol}:", ""]
        for metric, title in names.items():
            parts = []
            for task in TASKS:
                best, *ties = _winners(table, protocol, task, metric)
                text = f"{task} {best} {table[protocol, task, best, metric]['value']:.3g}"
                parts.append(text + (f" (even: {', '.join(ties)})" if ties else ""))
            out.append(f"- {title}: {'; '.join(parts)}.")
        lost: dict[str, list[str]] = {}
        for metric in names:
            for task in TASKS:
                best = _winners(table, protocol, task, metric)
                if "Trust" not in best:
                    ours, theirs = (
                        table[protocol, task, name, metric]["value"] for name in ("Trust", best[0])
                    )
                    text = f"{task} ({ours:.3g}, {best[0]} {theirs:.3g})"
                    lost.setdefault(LABELS[metric], []).append(text)
        total, beaten = len(TASKS) * len(names), sum(map(len, lost.values()))
        where = "; ".join(f"by {label} on {', '.join(texts)}" for label, texts in lost.items())
        out.append(
            f"- Trust is best or even with the best in {total - beaten} of {total} of these"
            + (f". It is beaten {where}." if lost else ".")
        )
        out.append("")
    out += [_verdict(results, table), "", *_left_out(results, table), ""]
    out += [*_rounding_verdict(results, table), "", *_bound_verdict(results, table)]
    return out


def _verdict(results: dict[str, Any], table: Table) -> str:
    # the published reading: Trust stays nearer to the curve, DSG meets the constraint better
    def holds(protocol: str, task: str, a: str, b: str, metric: str) -> bool:
        one, other = (table[protocol, task, name, metric] for name in (a, b))
        return one["value"] + math.hypot(one["sd"], other["sd"]) / math.sqrt(2) < other["value"]

    parts = []
    for protocol in results["config"]["protocols"]:
        nearer = [t for t in TASKS if holds(protocol, t, "Trust", "DSG", "distance")]
        better = [t for t in TASKS if holds(protocol, t, "DSG", "Trust", "constraint")]
        parts.append(
            f"at {protocol} Trust is nearer to the curve than DSG on {_list(nearer)}, and DSG "
            f"nearer to the constraint than Trust on {_list(better)}"
        )
    free = [
        table[list(results["config"]["protocols"])[-1], "line", "unguided", m]["value"]
        for m in ("distance", "median_distance")
    ]
    return (
        "The published numbers say that Trust stays nearer to the curve than DSG on all four "
        "tasks, and that DSG meets the constraint better on the cubic and the curve. Here, beyond "
        f"one pooled standard deviation, {'; '.join(parts)}. A mean is mostly that of the samples "
        f"that went astray: already without guidance the mean distance is {free[0]:.2g}, the "
        f"median {free[1]:.2g}."
    )


def _left_out(results: dict[str, Any], table: Table) -> list[str]:
    worse, lost = [], []
    for protocol in results["config"]["protocols"]:
        for task in TASKS:
            free = table[protocol, task, "unguided", "sw2"]["value"]
            for name in METHODS:
                at = table[protocol, task, name, "sw2"]["value"]
                if at > free:
                    worse.append(f"{name}, {task}, {protocol} ({at:.3g}, unguided {free:.3g})")
                percent = table[protocol, task, name, "percent_lost"]["value"]
                if percent > 0:
                    lost.append(f"{name}, {task}, {protocol} ({percent:.2g} %)")
    return [
        "By SW2 further from the data that meet the constraint than samples without guidance, "
        f"hence at few of its crossings: {'; '.join(worse) or 'none'}.",
        "",
        f"Samples run away with: {'; '.join(lost) or 'none'}. A step that is chosen on "
        f"{results['config']['tune']} samples can be on the edge of stability.",
    ]


def _rounding_verdict(results: dict[str, Any], table: Table) -> list[str]:
    out = []
    for meant in ("0 to 8", "2 to 6"):
        right, wrong = (results["expected"][f"{meant}, {kind}"] for kind in ("right", "inverted"))
        text = (
            f"- Budget {meant}: rounded rightly or inverted, the expected mean J is "
            f"{right['mean']:.2f} or {wrong['mean']:.2f}, so that calls hide the difference, but "
            f"the inverted budget of a level is off by {wrong['off']:.2f} (RMS). "
        )
        parts = []
        for metric in ("constraint", "distance", "score"):
            pairs = [
                [
                    table["rounding", task, f"{meant}, {kind}", metric]
                    for kind in ("right", "inverted")
                ]
                for task in TASKS
            ]
            ratio = statistics.geometric_mean(
                max(b["value"], 1e-9) / max(a["value"], 1e-9) for a, b in pairs
            )
            beyond = [(b["value"] - a["value"]) / (_pooled(a, b) or 1e-12) for a, b in pairs]
            worse, better = sum(z > 1 for z in beyond), sum(z < -1 for z in beyond)
            if metric == "constraint":  # of the disc it is nearly 0, which has no ratio
                ratio = statistics.geometric_mean(
                    b["value"] / a["value"]
                    for task, (a, b) in zip(TASKS, pairs, strict=True)
                    if not TASKS[task].inequality
                )
            parts.append(
                f"{metric} {ratio:.2f} times that of the right one (worse by more than one pooled "
                f"standard deviation on {worse} of {len(TASKS)} tasks, better on {better})"
            )
        out.append(text + "Inverted: " + "; ".join(parts) + ".")
    return ["What inverted rounding does:", "", *out]


def _bound_verdict(results: dict[str, Any], table: Table) -> list[str]:
    out = []
    most = results["config"]["calls"]
    for name in bounds():
        if name == "none":
            continue
        saved = statistics.mean(
            1 - table["bound", task, name, "needed_calls"]["value"] / most for task in TASKS
        )
        signs: dict[str, list[str]] = {}
        for metric in ("constraint", "distance", "score"):
            parts = []
            for task in TASKS:
                a, b = (table["bound", task, key, metric] for key in ("none", name))
                z = (b["value"] - a["value"]) / (_pooled(a, b) or 1e-12)
                parts.append("worse" if z > 1 else "better" if z < -1 else "even")
            signs[metric] = parts
        text = "; ".join(
            f"{metric} worse on {parts.count('worse')}, better on {parts.count('better')}"
            for metric, parts in signs.items()
        )
        out.append(f"- {name}: {100 * saved:.0f} % of the calls saved; {text}.")
    head = f"What a bound does, against none, on the {len(TASKS)} tasks, beyond one pooled "
    return [head + "standard deviation:", "", *out]


def _pooled(a: dict[str, Any], b: dict[str, Any]) -> float:
    return math.sqrt((a["sd"] ** 2 + b["sd"] ** 2) / 2)


def _winners(table: Table, protocol: str, task: str, metric: str) -> list[str]:
    r"""Returns the best of the guided methods, then those within its own standard deviation."""
    sign = -1 if metric == "percent_hit" else 1
    rows = {name: table[protocol, task, name, metric] for name in METHODS if name != "unguided"}
    best = min(rows, key=lambda name: sign * rows[name]["value"])
    first = rows.pop(best)
    ties = [n for n, r in rows.items() if sign * (r["value"] - first["value"]) <= first["sd"]]
    return [best, *ties]


def _list(names: list[str]) -> str:
    return f"{len(names)} of {len(TASKS)} tasks" + (f" ({', '.join(names)})" if names else "")


def _value(row: dict[str, Any]) -> str:
    return f"{row['value']:.3g} ± {row['sd']:.1g}"


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", "---"] + ["---:"] * (len(head) - 2)
    return [f"| {' | '.join(row)} |" for row in [head, rule, *rows]]


def draw(shown: dict[tuple[str, str], Tensor], spiral: Spiral, path: Path) -> None:
    r"""Draws the points of the methods, a row for each task.

    Arguments:
        shown: The points by task and method, with shape `(B, 2, 1, 1)`.
        spiral: The curve of the data.
        path: The file.
    """
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
            y = shown[key, name]
            away = task.polynomial()(y)
            distance = spiral(y)
            hit = (away / slopes[key] <= NEAR) & (distance <= NEAR)
            panel.plot(*s, color="0.78", lw=1.0, zorder=1)
            if task.inequality:
                panel.contourf(across, up, value, levels=[-1e9, 0], colors=["#009E73"], alpha=0.13)
            panel.contour(across, up, value, levels=[0], colors=["#009E73"], linewidths=0.9)
            for mask, colour in ((~hit, "#D55E00"), (hit, "#0072B2")):
                points = y[mask].flatten(1).T.cpu().numpy()
                panel.scatter(*points, s=4, lw=0, color=colour, alpha=0.55, zorder=3)
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
