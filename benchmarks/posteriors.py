r"""How close do the solvers come to posteriors that are known exactly?

Every solver, on the problems of `exact_problems.py`, at equal calls of the denoiser. All are tuned
with the same number of settings, per problem and number of calls, for the sliced Wasserstein
distance, on other measurements, seeds and reference samples than those of the evaluation. Writes
the numbers, a table that says who wins where, and a figure. From the root:

    python benchmarks/posteriors.py [--quick] [--out DIR] [--seeds N] [--jobs N]
"""

import argparse
import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from scipy import stats
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.exact_problems import (
    TASKS,
    Problem,
    prior,
    problem,
    scores,
    sliced_w2,
)
from benchmarks.posteriors_methods import METHODS, Method, alike
from benchmarks.posteriors_report import draw, summarise
from constraints import derive_seed, generator
from inverse import Cost, Sequential, Trust
from mdm import DDIM
from namm.cli.main import answered

MAIN = ("sw2", "violation")
OUT = Path("docs/results/posteriors")
NOTES = [
    "further: the other metrics, as value and sd, with the costs of the rows",
    "value: mean over seeds; sd: over seeds; ci95: Student's t over seeds",
    "calls, vjps, seconds: per sample; a batch shares a call; flops: not counted",
    "seconds: of the batch, divided by its samples, with noise drawn for all samples at once",
    "PiGDM integrated: only with noise in the measurement, else its integral diverges at time 0",
    "Trust bound: the 2 calls per step of the estimate of the bound are made once and left out",
    "seed: all seeds are keyed by name and number, see benchmarks/posteriors.py",
]


@dataclass(frozen=True)
class Plan:
    r"""The sizes of a benchmark.

    Arguments:
        dims: The numbers of entries of a field.
        exact: Those of the problems without noise.
        budgets: The numbers of calls.
        settings: The number of settings that a solver is tuned over.
        tune: The number of samples for each setting and each of two measurements.
        n: The number of samples of each seed.
        reference: The number of reference samples.
        seeds: The number of seeds.
    """

    dims: tuple[int, ...] = (2, 16, 64)
    exact: tuple[int, ...] = (16,)
    budgets: tuple[int, ...] = (20, 200, 1000)
    settings: int = 10
    tune: int = 64
    n: int = 256
    reference: int = 2048
    seeds: int = 3


QUICK = Plan((2,), (2,), (5, 10), 4, 16, 32, 128, 2)


def by_batch(keys: Iterable[Sequence[Any]], shape: Sequence[int], like: Tensor) -> Tensor:
    r"""Draws like `constraints.noise`, but from one generator for all samples, which is several
    times faster here. A list of seeds that repeats gets the same noise again."""
    keys = list(keys)
    distinct = len({key[0] for key in keys})
    fields = torch.randn((distinct, *shape), generator=generator("batch", *keys[0]))
    return fields.repeat(len(keys) // distinct, *[1] * len(shape)).to(like)


def solve(
    p: Sequence[Problem], solver: Sequential, seeds: list[int], per: int, repeats: int = 1
) -> tuple[Tensor, Cost, float]:
    r"""Returns samples, the calls and products for each, and the seconds for all.

    Arguments:
        p: The problems, which differ in their measurement alone.
        solver: The solver.
        seeds: The seeds of the samples, `per` for each problem.
        per: The number of samples for each problem.
        repeats: How many times all of it is repeated, with the same noise.
    """
    denoiser, d = p[0].denoiser, p[0].reference.shape[1]
    m = torch.cat([one.m.expand(per, *one.m.shape[1:]) for one in p])
    m = m.repeat(repeats, *[1] * (m.ndim - 1))
    with mock.patch("mdm.sampler.noise", by_batch):
        if isinstance(solver, Trust) and solver.quantile is not None:
            with torch.no_grad():
                solver.estimate(denoiser, (1, d))
        denoiser.reset_cost()
        start = time.perf_counter()
        y = solver(denoiser, p[0].operator, m, (1, d), seeds * repeats).y[:, 0]
    return y, Cost(denoiser.calls, denoiser.vjps), time.perf_counter() - start


def tune(
    method: Method, steps: int, settings: list[dict[str, Any]], p: Sequence[Problem], per: int
) -> list[float]:
    r"""Returns the distance of each setting, over the problems.

    Arguments:
        method: The method.
        steps: The number of steps.
        settings: The settings.
        p: The problems.
        per: The number of samples for each problem.
    """
    seeds = [derive_seed("tune", i) for i in range(per * len(p))]
    batches: list[list[dict[str, Any]]] = [[s] for s in settings]
    if not method.projector:  # one chain for all step sizes, each sample with its own
        seconds = sorted({s.get("interval", 0) for s in settings})
        batches = [[s for s in settings if s.get("interval", 0) == b] for b in seconds]
    out: dict[str, float] = {}
    for batch in batches:
        setting = dict(batch[0])
        if len(batch) > 1:
            sizes = torch.tensor([s[method.knob] for s in batch]).repeat_interleave(len(seeds))
            trust = isinstance(method.build(DDIM(1)), Trust)
            setting[method.knob] = sizes if trust else sizes[:, None, None]
        y, _, _ = solve(p, method.solver(steps, setting), seeds, per, len(batch))
        for s, ours in zip(batch, y.chunk(len(batch)), strict=True):
            each = zip(p, ours.chunk(len(p)), strict=True)
            out[str(s)] = statistics.mean(sliced_w2(z, one.reference) for one, z in each)
    return [out[str(s)] for s in settings]


def rows_of(
    task: str, name: str, protocol: str, values: list[dict[str, float]], cost: dict[str, Any]
) -> list[dict[str, Any]]:
    r"""Returns the rows of one method, problem and budget: means over seeds, with the interval of
    Student's t."""
    rows = []
    for metric in values[0]:
        rows.append(
            {"task": task, "method": name, "protocol": protocol, "metric": metric}
            | interval([v[metric] for v in values])
            | {"seed": 0}
            | cost
        )
    return rows


def interval(each: list[float]) -> dict[str, Any]:
    r"""Returns the mean, its 95 % interval of Student's t, and the std of a few numbers."""
    mean, sd = statistics.mean(each), statistics.stdev(each)
    half = float(stats.t.ppf(0.975, len(each) - 1)) * sd / math.sqrt(len(each))
    ends = [tidy(mean - half), tidy(mean + half)]
    return {"value": tidy(mean), "ci95": ends, "sd": tidy(sd)}


def tidy(x: float) -> float:
    r"""Returns a number with four digits."""
    return float(f"{x:.4g}")


@cache
def steps_of(name: str, calls: int) -> int:
    r"""Returns the steps of a method that so many calls pay for."""
    return METHODS[name].steps(prior("gaussian", 2), calls)


def measure(kind: str, d: int, task: str, plan: Plan) -> dict[str, Any]:
    r"""Returns the rows of a problem, how each method was tuned, and the seconds of one core.

    Arguments:
        kind: The kind of the prior.
        d: The number of entries.
        task: The task.
        plan: The sizes.
    """
    torch.set_num_threads(1)
    begun = time.process_time()
    truth = problem(kind, d, task, "evaluate", plan.reference)
    trials = [problem(kind, d, task, f"tune {i}", plan.reference // 2) for i in range(2)]
    seeds = [derive_seed("evaluate", i) for i in range(plan.n * plan.seeds)]
    if task == "disc":
        again = problem(kind, d, task, "floor", len(seeds)).reference
    else:  # of the same measurement, behind those of the reference
        more = plan.reference + len(seeds)
        again = problem(kind, d, task, "evaluate", more).reference[plan.reference :]
    values = [scores(truth, y) for y in again.chunk(plan.seeds)]
    free = {"n": len(seeds), "calls": 0, "vjps": 0, "flops": None, "seconds": 0.0}
    rows, tuned = rows_of(truth.name, "exact samples", "floor", values, free), []
    for name, method in METHODS.items():
        if method.needs_noise and not TASKS[task]:
            continue
        settings, best = method.settings(task, plan.settings), 0
        for calls in plan.budgets:
            steps, chosen = steps_of(name, calls), list(range(len(settings)))
            if calls == plan.budgets[-1] and len(settings) > 1:
                chosen = alike(settings, best, str(method.knob))
            if len(chosen) > 1:
                tried = [settings[i] for i in chosen]
                distances = tune(method, steps, tried, trials, plan.tune)
                best = chosen[min(range(len(chosen)), key=distances.__getitem__)]
                ends = (method.low, method.high)
                edge = any(math.isclose(settings[best][method.knob], end) for end in ends)
                tuned.append(
                    {"task": truth.name, "method": name, "protocol": f"{calls} calls"}
                    | {"steps": steps, "setting": _tidy(settings[best]), "edge": edge}
                    | {"trials": len(chosen), "sw2": tidy(min(distances))}
                )
            solver = method.solver(steps, settings[best])
            y, cost, seconds = solve([truth], solver, seeds, len(seeds))
            values = [scores(truth, z) for z in y.chunk(plan.seeds)]
            spent = {"n": len(seeds), "calls": cost.calls, "vjps": cost.vjps, "flops": None}
            spent |= {"seconds": tidy(seconds / len(seeds))}
            rows += rows_of(truth.name, name, f"{calls} calls", values, spent)
    print(f"{truth.name} done", flush=True)
    return {"rows": rows, "tuned": tuned, "seconds": time.process_time() - begun}


def _tidy(setting: dict[str, Any]) -> dict[str, Any]:
    return {k: tidy(v) if isinstance(v, float) else v for k, v in setting.items()}


def main(argv: list[str] | None = None) -> None:
    r"""Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of half a minute")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the results")
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
        if task != "exact" or d in plan.exact
    ]
    if args.jobs > 1:
        with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
            parts = pool.starmap(measure, todo, chunksize=1)
    else:
        parts = [measure(*one) for one in todo]
    parts = parts[::-1]  # the small ones first
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
    args.out.mkdir(parents=True, exist_ok=True)
    text = ["{"]
    for key, value in results.items():
        body = json.dumps(value, separators=(",", ":"))
        if key in ("tuned", "rows"):
            lines = [json.dumps(row, separators=(",", ":")) for row in value]
            body = "[\n" + ",\n".join(lines) + "\n]"
        text.append(f'"{key}": {body}' + ("" if key == "rows" else ","))
    (args.out / "results.json").write_text("\n".join([*text, "}"]) + "\n")
    (args.out / "results.md").write_text(summarise(results))
    draw(results, args.out / "quality.png")


if __name__ == "__main__":
    sys.exit(answered(main))
