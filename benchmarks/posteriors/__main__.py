r"""How close do the solvers come to posteriors that are known exactly?

Every solver, on the problems of `problems.py`, at equal calls of the denoiser. All are tuned
with the same number of settings, per problem and number of calls, for the sliced Wasserstein
distance, on other measurements, seeds and reference samples than the evaluation has. Writes
the numbers, tables, and a figure. From the root:

    python -m benchmarks.posteriors [--quick] [--tasks exact disc] [--out DIR] [--seeds N]
        [--jobs N]
"""

import platform
import time
from dataclasses import replace
from typing import Any

import torch

from ..common.files import write_json
from ..common.program import launch, options, parallel
from .figure import draw
from .measure import QUICK, Plan, measure
from .methods import METHODS
from .problems import TASKS
from .tables import summarise

MAIN = ("sw2", "violation")
NOTES = [
    "further: the other metrics, as value and sd, with the costs of the rows",
    "value: mean over seeds; sd: over seeds; ci95: Student's t over seeds",
    "calls, vjps, seconds: per sample; a batch shares a call; flops: not counted",
    "seconds: of the batch, divided by its samples, with noise drawn for all samples at once",
    "PiGDM integrated: only with noise in the measurement, else its integral diverges at time 0",
    "Trust bound: the 2 calls per step of the estimate of the bound are made once and left out",
    "seed: all seeds are keyed by name and number, see benchmarks/posteriors/measure.py",
]


def main(argv: list[str] | None = None) -> None:
    r"""Runs the benchmark."""
    parser = options(__doc__, "docs/results/posteriors")
    parser.add_argument("--quick", action="store_true", help="a smoke run of half a minute")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, help="the number of seeds, at least 2")
    parser.add_argument("--jobs", type=int, default=1, help="the number of processes")
    args = parser.parse_args(argv)
    plan = QUICK if args.quick else Plan()
    plan = replace(plan, seeds=args.seeds) if args.seeds else plan
    start = time.perf_counter()
    kinds = ["mixture"] if args.quick else ["gaussian", "mixture"]
    todo = [
        (kind, d, task, plan)
        for d in plan.dims[::-1]
        for kind in kinds
        for task in TASKS
        if task in args.tasks and d in getattr(plan, task, plan.dims)
    ]
    parts = parallel(measure, todo, args.jobs)[::-1]  # the small ones first
    rows = [row for part in parts for row in part["rows"]]
    further: dict[str, Any] = {}
    for row in rows:  # only values and their spread, or the file would be several times as large
        if row["metric"] not in MAIN:
            of = further.setdefault(row["task"], {}).setdefault(row["method"], {})
            of.setdefault(row["protocol"], {})[row["metric"]] = [row["value"], row["sd"]]
    results = {
        "config": {**vars(plan), "tasks": TASKS, "methods": list(METHODS)},
        "notes": NOTES,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "jobs": args.jobs,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "core_minutes": round(sum(part["seconds"] for part in parts) / 60, 1),
        "tuned": [row for part in parts for row in part["tuned"]],
        "further": further,
        "rows": [row for row in rows if row["metric"] in MAIN],
    }
    write_json(results, args.out / "results.json", ("tuned", "rows"))
    (args.out / "results.md").write_text(summarise(results))
    draw(results, args.out / "quality.png")


if __name__ == "__main__":
    launch(main)
