r"""The report of a run: tables, a figure and one `results.json` of all its stages."""

__all__ = ["REPORT", "main", "report"]

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from constraints import InputError

from ..evaluation.results import escaped, markdown, png, with_half_width
from ..evaluation.training_costs import Results, compute, cost_cells, shipped, training
from ..training.folder import check_absent, locked
from ..training.io import check_inside, write_together
from ..training.records import damaged, read_record
from ..training.trust import trusting
from .figure import Spent, draw
from .parser import parse_report

RESULTS = "results.json"
REPORT = (RESULTS, "report.md", "report.png")
COLUMNS = (
    *("distance", "chi2", "chi2_floor", "relative_error", "unsolved"),
    *("mmd", "spread", "spectrum", "cycle"),
)
ROW = ("task", "method", "protocol", "metric", "value", "ci95", "n", "calls", "vjps", "flops")


def main(argv: Sequence[str]) -> None:
    r"""Writes the report that a command asks for.

    Arguments:
        argv: The options of the verb.
    """
    options = parse_report(argv)
    with trusting(options.trust):
        report(options.folder, replace=options.replace)


def report(folder: Path, runs: Path | None = None, replace: bool = False) -> None:
    r"""Gathers the results of all stages below a folder into `results.json`, `report.md` and
    `report.png`, and prints the tables and the paths. All files or none: a report replaces a
    former one whose results are all there, unchanged.

    Arguments:
        folder: The folder of the runs of a problem.
        runs: The folder of the trainings that the results name, if it is another one.
        replace: Whether to replace files that are no report, or a report of other results.

    Raises:
        InputError: If no stage below it has results, if the results are those of several problems,
            if two stages have results of the same method in the same task, or if a file would be
            replaced.
    """
    stages = {path.parent: read_results(path) for path in sorted(folder.glob("*/**/results.json"))}
    if problems := [path for path, results in stages.items() if "stages" in results]:
        raise InputError(f"{folder} holds several problems: give one, such as {problems[0]}.")
    if not stages:
        raise InputError(f"There are no results below {folder}: run its test stages first.")
    for name in REPORT:
        check_inside(folder / name, folder)
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
    tasks = sorted({row["task"] for row in rows})
    tables = [task_table(rows, task, spent[task]) for task in tasks]
    tables += [training_table(trained)] if trained else []
    notes = [note for results in stages.values() for note in results.get("notes", [])]
    unknown = [row for row in rows if row["value"] is None]
    notes += [f"{row['method']}, {row['metric']}: {row['reason']}." for row in unknown]
    text = "\n\n".join([*tables, *dict.fromkeys(map(escaped, notes))])
    figure = png(draw(stages, rows, trained, spent), 170)
    drawn = {"report.md": f"{text}\n".encode(), "report.png": figure}
    gathered["sha256"] = {name: digest(content) for name, content in drawn.items()}
    contents = {RESULTS: json.dumps(gathered, indent=1).encode(), **drawn}
    with locked(folder):
        check_absent(foreign(folder, gathered, contents), replace)
        write_together(folder, contents)
    print(f"\n{text}\n")
    for kind, name in zip(("results", "report", "figure"), contents, strict=True):
        print(f"{kind:8} {folder / name}")


def foreign(folder: Path, gathered: dict[str, Any], contents: dict[str, bytes]) -> list[Path]:
    r"""Returns the files that a report must not replace unasked: files that `namm report` did not
    write, and the report of results that have changed or are not there any more.

    Arguments:
        folder: The folder of the report.
        gathered: The new results.
        contents: The content of each file of the new report by its name.
    """
    there = {name: f.read_bytes() for name in contents if (f := folder / name).exists()}
    sums: dict[str, str] = {}
    with suppress(AttributeError, LookupError, TypeError, ValueError):  # it is no report
        old = json.loads(there[RESULTS])
        kept = old["stages"].items() <= gathered["stages"].items()
        if kept and all(row in gathered["rows"] for row in old["rows"]):
            sums = {**old["sha256"], RESULTS: digest(there[RESULTS])}
    same = {name for name, content in there.items() if content == contents[name]}
    return [folder / n for n in there if n not in same and sums.get(n) != digest(there[n])]


def digest(content: bytes) -> str:
    r"""Returns the SHA-256 of a content."""
    return sha256(content).hexdigest()


def read_results(file: Path) -> dict[str, Any]:
    r"""Returns the content of a `results.json`, or refuses a damaged one."""
    results = read_record(file, rows=list)
    of_stage = "stages" in results or isinstance(results.get("config"), dict)
    known = all(isinstance(row, dict) and {*ROW} <= {*row} for row in results["rows"])
    if not (of_stage and known and results["rows"]):
        raise damaged(file, f"lacks a row, the configuration, or one of {', '.join(ROW)}")
    return results


def unique(stages: Results) -> list[dict[str, Any]]:
    r"""Returns the rows of all stages. Every stage reports the rows of the data, which are kept
    once for each task."""
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


def task_table(rows: list[dict[str, Any]], task: str, spent: dict[str, float]) -> str:
    r"""Returns the Markdown table of one task: a line per method and protocol, a column per metric
    with the half-width of its 95 % interval. The column "times lower" compares the distance with
    the distance of the first method.

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
    head = [escaped(task), "protocol", columns[0], "times lower", *columns[1:], *cost_columns]
    out: list[list[Any]] = [head, ["---"] * len(head)]
    references: dict[str, float] = {}  # the distance of the first method of each protocol
    for (method, protocol), cells in lines.items():
        one = cells["distance"]
        values = [with_half_width(cells[c]) if c in cells else "" for c in columns]
        lower = ""
        if method != "data":
            reference = references.setdefault(protocol, one["value"])
            lower = f"{reference / one['value']:.2g}" if reference and one["value"] else ""
        values.insert(1, lower)
        figures = [f"{one['calls']:g}", f"{one['vjps']:g}", f"{one['flops'] / 1e9:.3g}"]
        figures += [f"{one['seconds']:.2g}", f"{spent.get(method, 0) / 1e12:.3g}"]
        out.append([escaped(method), escaped(protocol), *values, one["n"], *figures])
    return markdown(out)


def training_table(trained: dict[str, dict[str, Any]]) -> str:
    r"""Returns the Markdown table of the operations and the time of each training."""
    head = ["training", "steps", "counted TFLOP", "minutes"]
    lines = [head, ["---"] * len(head)]
    return markdown(
        [*lines, *([escaped(stage), *cost_cells(found)] for stage, found in trained.items())]
    )
