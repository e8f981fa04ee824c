r"""The assimilation of reference fields beside the figures that the authors of the method publish.

    namm run configs/burgers-reference.yaml
    python -m benchmarks.reference runs/burgers-reference [--out docs/results/burgers-reference]

writes `report.md` and `results.json`: the tables of the run, the same distances beside the
published ones, and the commands that made them. Those of others come without intervals, and from
networks of their own. On Burgers the field is theirs too, on the Kolmogorov flow it is not.

    namm run configs/burgers-reference.yaml --scale quick --to report_first
    python -m benchmarks.reference runs/burgers-reference-quick --whole FOLDER

also holds a run of fewer samples against the whole one, whose tables are in the folder.
"""

import json
import math
from pathlib import Path
from typing import Any

from namm.cli.report import report
from namm.evaluation.results import half_width, with_half_width
from namm.training.io import atomic

from .common.program import launch, options
from .common.tables import join
from .common.tables import table as markdown

# mean distances of 32 samples, at the end that keeps the noise of the last step, by the task that
# stands beside them
PUBLISHED = {
    "burgers": {
        "field 0": {"DPS": 0.0093, "constraint-guided DPS": 0.0072, "mirror-DPS": 0.00062}
    },
    "kolmogorov": {
        "4 trajectories": {"DPS": 0.143, "constraint-guided DPS": 0.1275, "mirror-DPS": 0.0252}
    },
}
COMPARED = ("distance", "relative_error", "chi2")


def beside(
    rows: list[dict[str, Any]], published: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    r"""Returns the distances of the methods that others have published, by task, at both ends of a
    run."""
    found = []
    for row in rows:
        theirs = published.get(row["task"], {}).get(row["method"])
        if row["metric"] == "distance" and theirs is not None:
            keys = ("task", "method", "protocol", "n", "value", "ci95")
            found.append({**{key: row[key] for key in keys}, "published": theirs})
    return found


def table(compared: list[dict[str, Any]]) -> str:
    r"""Returns the rows of `beside` as Markdown. A ratio needs the noise of the last step."""
    head = ["task", "method", "end", "n", "distance", "published by the authors", "ratio to it"]
    lines = []
    for row in compared:
        ratio = row["value"] / row["published"]
        words = [row["task"], row["method"], row["protocol"], row["n"], with_half_width(row)]
        words += [f"{row['published']:g}"]
        lines.append([*words, f"{ratio:.2g}" if row["protocol"] == "published" else ""])
    return markdown(head, lines)


def agreement(pairs: list[dict[str, Any]]) -> str:
    r"""Returns the rows of `against` as Markdown."""
    head = ["task", "method", "end", "metric", "n", "mean", "n", "whole run", "allowed", "agree"]
    lines = []
    for row in pairs:
        words = [row[key] for key in ("task", "method", "protocol", "metric", "n")]
        numbers = [f"{row['value']:.3g}", row["n_whole"], f"{row['whole']:.3g}"]
        lines.append([*words, *numbers, f"{row['allowed']:.2g}", "yes" if row["agree"] else "no"])
    return markdown(head, lines)


def against(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> list[dict[str, Any]]:
    r"""Returns the rows of a run of fewer samples beside those of the whole one. They agree if
    the means are no farther apart than the half-widths of both together. The half-width of fewer
    samples is the whole run's, widened for their number: a half-width from a few samples says
    little, least of all for a skewed metric."""
    keys = ("task", "method", "protocol", "metric")
    known = {tuple(row[key] for key in keys): row for row in whole}
    found = []
    for row in rows:
        other = known.get(tuple(row[key] for key in keys))
        if row["metric"] in COMPARED and row["method"] != "data" and other:
            allowed = half_width(other) * (1 + math.sqrt(other["n"] / row["n"]))
            agree = abs(row["value"] - other["value"]) <= allowed
            found.append(
                {
                    **{key: row[key] for key in keys},
                    **{"value": row["value"], "n": row["n"]},
                    **{"whole": other["value"], "n_whole": other["n"]},
                    **{"allowed": allowed, "agree": agree},
                }
            )
    return found


def commands(runs: Path) -> list[str]:
    r"""Returns the commands of the finished stages of a run, in the order in which they ended."""
    ends = [json.loads(file.read_text()) for file in runs.glob("**/finished.json")]
    return [end["command"] for end in sorted(ends, key=lambda end: end["finished"])]


def main(argv: list[str] | None = None) -> None:
    r"""Writes the tables of a run, beside what is published and beside a whole run."""
    parser = options(__doc__)
    parser.add_argument("runs", type=Path, help="the folder of the run")
    parser.add_argument("--out", type=Path, help="the folder of the tables; the run's if missing")
    parser.add_argument("--whole", type=Path, help="the folder of the tables of the whole run")
    args = parser.parse_args(argv)
    runs, out = args.runs, args.out or args.runs
    problem = runs.name.split("-")[0]
    if problem not in PUBLISHED:
        parser.error(f"{runs} is no run of {' or '.join(PUBLISHED)}: nothing is published for it.")
    whole = args.whole / "results.json" if args.whole else None
    if whole and not whole.is_file():
        parser.error(f"there is no {whole}: give --whole the folder of the tables of a whole run.")

    report(runs, replace=True)
    results = json.loads((runs / "results.json").read_text())
    compared, ran = beside(results["rows"], PUBLISHED[problem]), commands(runs)
    pairs: list[dict[str, Any]] = []
    parts = [
        (runs / "report.md").read_text().rstrip(),
        "Beside the distances published by the authors of the paper: means of 32 samples of "
        "their networks, with the noise of the last step (`published`), without intervals.",
        table(compared),
    ]
    if whole:
        pairs = against(results["rows"], json.loads(whole.read_text())["rows"])
        agree = sum(row["agree"] for row in pairs)
        parts += [f"Means that agree with the whole run: {agree} of {len(pairs)}."]
        parts += [agreement(pairs)]
    seeds = ", ".join(sorted({str(row["seed"]) for row in results["rows"]}))
    parts += [f"Made by, with seed {seeds}:", "\n".join(f"    {command}" for command in ran)]
    results |= {"compared": compared, "whole": pairs, "commands": ran}
    out.mkdir(parents=True, exist_ok=True)
    texts = {"report.md": join(*parts), "results.json": json.dumps(results, indent=1)}
    for name, text in texts.items():
        with atomic(out / name) as file:
            file.write(f"{text.rstrip()}\n".encode())


if __name__ == "__main__":
    launch(main)
