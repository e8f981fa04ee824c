r"""Measures the solvers and the variants of Trust on all tasks of the spiral."""

__all__ = ["QUICK", "Plan", "benchmark"]

import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from constraints import Spiral
from inverse import ConstantBudget, Trust
from mdm import DDIM, Denoiser

from ..common.numbers import Row, tidy
from ..common.program import parallel
from .bench import LOST, Bench
from .tasks import (
    ABLATION,
    INNER,
    METHODS,
    METRICS,
    NEAR,
    TASKS,
    bounds,
    budgets,
    expected,
    slope,
)

NOTES = [
    "value: mean over seeds; sd: over seeds; ci95: Student's t over seeds",
    "calls, vjps, flops, seconds: of one sample; a batch shares a call; noise is drawn for all "
    "samples at once",
    "constraint: mean of the absolute polynomial, of its positive part for the disc; distance: "
    "mean distance to the curve of the data; score: constraint / slope + distance",
    "the estimate of a quantile, 2 calls per step of 64 samples, is made once and left out",
    "needed_calls: calls of a sample by itself; a batch goes on as long as any of its samples",
    "tried: value, constraint, distance, score",
]


@dataclass(frozen=True)
class Plan:
    r"""The sizes of the benchmark.

    Arguments:
        steps: The steps of the published protocol.
        n: The number of samples of each seed.
        seeds: The number of seeds.
        settings: The number of values that a solver is tuned over.
        tune: The number of samples of each of them.
        ablation: The number of samples of each seed in the ablations.
    """

    steps: int = 50
    n: int = 1000
    seeds: int = 3
    settings: int = 8
    tune: int = 200
    ablation: int = 300

    @property
    def calls(self) -> int:
        r"""The calls of Trust with so many steps."""
        return self.steps + INNER * (self.steps - 1)

    def protocols(self) -> dict[str, dict[str, int]]:
        r"""Returns the steps of every method in each protocol."""
        few = (self.steps + INNER) // (1 + INNER)  # of Trust, at no more calls than steps
        others = [name for name in METHODS if name != "Trust"]
        return {
            f"{self.steps} steps": dict.fromkeys(METHODS, self.steps),
            f"{self.steps} calls": {**dict.fromkeys(others, self.steps), "Trust": few},
            f"{self.calls} calls": {**dict.fromkeys(others, self.calls), "Trust": self.steps},
        }


QUICK = Plan(steps=6, n=40, seeds=2, settings=3, tune=20, ablation=20)


def measure(
    task: str, denoiser: Denoiser, plan: Plan, spiral: Spiral
) -> tuple[list[Row], list[Row], dict[str, Tensor], float]:
    r"""Returns the rows of a task, how each method was tuned, points for the figure by method, and
    the seconds of a core."""
    torch.set_num_threads(1)
    begun = time.process_time()
    bench = Bench(denoiser, spiral)
    rows: list[Row] = []
    tuned: dict[tuple[str, int], Row] = {}
    runs: dict[tuple[str, int], tuple[list[Row], Tensor]] = {}
    points: dict[str, Tensor] = {}
    for protocol, steps_of in plan.protocols().items():
        for name, steps in steps_of.items():
            method, key = METHODS[name], (name, steps)
            about = {"task": task, "method": name, "protocol": protocol}
            if key not in runs:
                setting: Row = {}
                if method.knob is not None:
                    tuned[key] = bench.tune(task, name, steps, plan.settings, plan.tune)
                    setting = {method.knob: tuned[key]["value"]}
                solver, sizes = method.solver(steps, setting), (plan.n, plan.seeds)
                parameters = {"steps": steps, **setting}
                runs[key] = bench.rows(about, lambda _, s=solver: s, sizes, METRICS, parameters)
            rows += [{**row, **about} for row in runs[key][0]]
            points[name] = runs[key][1]
    step = {"step_size": tuned["Trust", plan.steps]["value"]}
    sizes, transition = (plan.ablation, plan.seeds), DDIM(plan.steps)
    for name, (_, budget) in budgets().items():
        about = {"task": task, "method": name, "protocol": "rounding"}
        parameters = {"steps": plan.steps, **step}
        rows += bench.rows(
            about,
            lambda seed, b=budget: Trust(b(seed), transition=transition, **step),
            sizes,
            ABLATION[:-1],
            parameters,
        )[0]
    for name, (written, bound) in bounds().items():
        about = {"task": task, "method": name, "protocol": "bound"}
        parameters = {"steps": plan.steps, **step, **written}
        solver = Trust(ConstantBudget(INNER), bound=bound, transition=transition, **step)
        rows += bench.rows(about, lambda _, s=solver: s, sizes, ABLATION, parameters)[0]
    print(f"{task} done", flush=True)
    return rows, list(tuned.values()), points, time.process_time() - begun


def benchmark(
    denoiser: Denoiser, plan: Plan, spiral: Spiral, jobs: int = 1
) -> tuple[dict[str, Any], dict[tuple[str, str], Tensor]]:
    r"""Returns the results, and points for the figure by task and method."""
    begun = time.perf_counter()
    todo = [(task, denoiser, plan, spiral) for task in TASKS]
    parts = parallel(measure, todo, jobs)
    points = {
        (task, name): y
        for task, part in zip(TASKS, parts, strict=True)
        for name, y in part[2].items()
    }
    levels = Trust(transition=DDIM(plan.steps)).levels(denoiser)
    results = {
        "config": {
            **asdict(plan),
            "calls": plan.calls,
            "protocols": plan.protocols(),
            "inner": INNER,
            "near": NEAR,
            "lost": LOST,
        },
        "tasks": {
            name: {"terms": t.terms, "inequality": t.inequality, "slope": tidy(slope(t, spiral))}
            for name, t in TASKS.items()
        },
        "published": {name: task.published for name, task in TASKS.items()},
        "expected": {name: expected(name, levels) for name in budgets()},
        "seeds": "derive_seed('evaluate', seed, sample); tuning: derive_seed('tune', sample)",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "diffusers", "lightning")},
        },
        "jobs": jobs,
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "core_minutes": round(sum(part[3] for part in parts) / 60, 1),
        "notes": NOTES,
        "tuned": [row for part in parts for row in part[1]],
        "rows": [row for part in parts for row in part[0]],
    }
    return results, points
