r"""Tunes solvers on the spiral's constraints, and measures them and the variants of Trust."""

__all__ = ["QUICK", "Bench", "Plan", "benchmark"]

import math
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from constraints import Spiral, derive_seed, generator
from inverse import ConstantBudget, Residual, Sequential, Trust
from mdm import DDIM, Denoiser
from namm import CountFlops

from ..common.numbers import interval, tidy
from ..common.sampling import by_batch
from .tasks import (
    ABLATION,
    INNER,
    METHODS,
    METRICS,
    NEAR,
    TASKS,
    Counted,
    Task,
    bounds,
    budgets,
    expected,
    slope,
)

SHAPE = (2, 1, 1)
LOST = 4.0  # radii of the spiral from its middle: a sample that has run away


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


def wanted(task: Task, spiral: Spiral, n: int = 200_000, most: int = 4000) -> Tensor:
    r"""Returns points of the data, with shape `(N, 2)`, of which n are drawn and those are kept
    that are within `NEAR` of a constraint, the first ones."""
    share = torch.rand(n, generator=generator("wanted", "share"), dtype=torch.float64)
    z = torch.randn((n, 2), generator=generator("wanted", "noise"), dtype=torch.float64)
    x = spiral.curve(share.sqrt()) + 0.01 * z
    value = task.polynomial()(x[:, :, None, None])
    return x[value <= (0 if task.inequality else NEAR * slope(task, spiral))][:most]


def quantiles(y: Tensor, directions: int = 32) -> Tensor:
    r"""Returns 1000 quantiles of points, with shape `(N, 2)`, along each direction: the distance
    of two sets of them is the sliced Wasserstein-2 distance."""
    angle = math.pi * torch.arange(directions, dtype=y.dtype) / directions
    levels = (torch.arange(1000, dtype=y.dtype) + 0.5) / 1000
    return (y @ torch.stack([angle.cos(), angle.sin()])).quantile(levels, dim=0)


class Bench:
    r"""Creates what runs and judges solvers on one prior.

    Arguments:
        denoiser: The prior, of points of the plane.
        spiral: The curve of its data.
    """

    def __init__(self, denoiser: Denoiser, spiral: Spiral) -> None:
        self.denoiser, self.spiral = denoiser, spiral
        self.wanted = {name: quantiles(wanted(task, spiral)) for name, task in TASKS.items()}
        self.slopes = {name: slope(task, spiral) for name, task in TASKS.items()}
        self.forward, self.backward = self._flops()

    def _flops(self) -> tuple[int, int]:
        y, counts = torch.zeros(1, *SHAPE, requires_grad=True), []
        with CountFlops() as counter:
            y_hat = self.denoiser(y, torch.tensor(0.5))
            counts.append(counter.flops)
            y_hat.sum().backward()
        return counts[0], counter.flops - counts[0]

    def solve(
        self, task: str, solver: Sequential, seeds: list[int], repeats: int = 1
    ) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
        r"""Returns the points, what each cost, and the report.

        Arguments:
            task: The task.
            solver: The solver.
            seeds: The seeds of the samples.
            repeats: How many times all of it is repeated, with the same noise.
        """
        operator = Residual(TASKS[task].polynomial(), std=1.0)
        m = torch.zeros(repeats * len(seeds), 1)
        with mock.patch("mdm.sampler.noise", by_batch):
            if isinstance(solver, Trust) and solver.quantile is not None:
                with torch.no_grad():  # once for all samples, and not counted
                    solver.estimate(self.denoiser, SHAPE)
            self.denoiser.reset_cost()
            start = time.perf_counter()
            result = solver(self.denoiser, operator, m, SHAPE, seeds * repeats)
        seconds = (time.perf_counter() - start) / len(m)
        calls, vjps = self.denoiser.calls, self.denoiser.vjps
        cost = {"calls": calls, "vjps": vjps, "seconds": seconds}
        cost["flops"] = calls * self.forward + vjps * self.backward
        return result.y, cost, result.report

    def scores(self, task: str, y: Tensor) -> dict[str, float]:
        r"""Returns the errors of points, with shape `(B, 2, 1, 1)`."""
        size, y = self.spiral.scale, y.flatten(1).double()
        lost = ~(torch.linalg.vector_norm(y, dim=1) <= LOST * size)
        # one that runs away counts as much as a radius, or a single one would decide the mean
        y = torch.where(lost[:, None], y.new_tensor([LOST * size, 0.0]), y)
        value = TASKS[task].polynomial()(y[:, :, None, None])
        distance = self.spiral(y[:, :, None, None])
        value = torch.where(lost, size * self.slopes[task], value)
        distance = torch.where(lost, size, distance)
        away = value / self.slopes[task]
        hit = (away <= NEAR) & (distance <= NEAR)
        return {
            "constraint": float(value.mean()),
            "distance": float(distance.mean()),
            "score": float((away + distance).mean()),
            "median_constraint": float(value.median()),
            "median_distance": float(distance.median()),
            "percent_hit": 100 * float(hit.double().mean()),
            "percent_lost": 100 * float(lost.double().mean()),
            "sw2": float((quantiles(y) - self.wanted[task]).square().mean().sqrt()),
        }

    def tune(self, task: str, name: str, steps: int, plan: Plan) -> dict[str, Any]:
        r"""Returns how a solver was tuned: the value of the smallest score, and all tried."""
        method = METHODS[name]
        values = method.values(plan.settings)
        seeds = [derive_seed("tune", i) for i in range(plan.tune)]
        # one chain for all values, each sample with its own
        each = torch.tensor(values).repeat_interleave(plan.tune)
        each = each if name == "Trust" else each[:, None, None, None]
        y, _, _ = self.solve(task, method.solver(steps, each), seeds, len(values))
        scores = [self.scores(task, part) for part in y.chunk(len(values))]
        best = min(range(len(values)), key=lambda i: scores[i]["score"])
        columns = ("constraint", "distance", "score")
        return {
            "task": task,
            "method": name,
            "steps": steps,
            "knob": method.knob,
            "value": tidy(values[best]),
            "edge": best in (0, len(values) - 1),
            "tried": [
                [tidy(v), *[tidy(s[c]) for c in columns]]
                for v, s in zip(values, scores, strict=True)
            ],
        }

    def repeat(
        self, task: str, build: Callable[[int], Sequential], n: int, seeds: int
    ) -> tuple[list[dict[str, float]], dict[str, Any], Tensor]:
        r"""Returns the scores of each seed, the mean cost of a sample, and the points of seed 0.

        Arguments:
            task: The task.
            build: From the number of the seed to the solver.
            n: The number of samples of a seed.
            seeds: The number of seeds.
        """
        values, costs, shown = [], [], torch.empty(0)
        for k in range(seeds):
            keys = [derive_seed("evaluate", k, i) for i in range(n)]
            y, cost, report = self.solve(task, build(k), keys)
            shown = y if k == 0 else shown
            value = self.scores(task, y)
            if "inner_steps" in report:
                inner = report["inner_steps"][:-1]
                value["inner"] = statistics.mean(inner)
                value["accepted"] = statistics.mean(report["accepted"])
            if "needed" in report:
                value["needed_calls"] = statistics.mean(report["needed"])
            values.append(value)
            costs.append(cost)
        return values, {key: statistics.mean(c[key] for c in costs) for key in costs[0]}, shown


def rows_of(
    task: str,
    method: str,
    protocol: str,
    values: list[dict[str, float]],
    cost: dict[str, Any],
    n: int,
    parameters: dict[str, Any],
) -> list[dict[str, Any]]:
    r"""Returns the rows of one run: means over seeds, with the interval of Student's t."""
    rows = []
    for metric in values[0]:
        rows.append(
            {"task": task, "method": method, "protocol": protocol, "metric": metric}
            | interval([v[metric] for v in values])
            | {"n": n, "seed": 0}
            | {key: tidy(c) for key, c in cost.items()}
            | {"parameters": parameters}
        )
    return rows


def measure(
    task: str, denoiser: Denoiser, plan: Plan, spiral: Spiral
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Tensor], float]:
    r"""Returns the rows of a task, how each method was tuned, points for the figure by method, and
    the seconds of a core.

    Arguments:
        task: The task.
        denoiser: The prior.
        plan: The sizes.
        spiral: The curve of its data.
    """
    torch.set_num_threads(1)
    begun = time.process_time()
    bench, rows, tuned = Bench(denoiser, spiral), [], []
    shown: dict[str, Tensor] = {}
    last = list(plan.protocols())[-1]
    best: dict[tuple[str, int], float | None] = {}
    runs: dict[tuple[str, int], Any] = {}
    for protocol, steps_of in plan.protocols().items():
        for name, steps in steps_of.items():
            method = METHODS[name]
            if (name, steps) not in runs:
                best[name, steps] = None
                if method.knob is not None:
                    tuned.append(bench.tune(task, name, steps, plan))
                    best[name, steps] = tuned[-1]["value"]
                solver = method.solver(steps, best[name, steps])
                again = lambda _, solver=solver: solver  # noqa: E731
                runs[name, steps] = bench.repeat(task, again, plan.n, plan.seeds)
            values, cost, y = runs[name, steps]
            values = [{metric: v[metric] for metric in METRICS} for v in values]
            parameters = {"steps": steps}
            if method.knob is not None:
                parameters[method.knob] = best[name, steps]
            n = plan.n * plan.seeds
            rows += rows_of(task, name, protocol, values, cost, n, parameters)
            if protocol == last:
                shown[name] = y
    n = plan.ablation * plan.seeds
    options: dict[str, Any] = {
        "step_size": best["Trust", plan.steps],
        "transition": DDIM(plan.steps),
    }
    for name, (_, budget) in budgets().items():
        build = lambda k, b=budget, o=options: Trust(b(k), **o)  # noqa: E731
        values, cost, _ = bench.repeat(task, build, plan.ablation, plan.seeds)
        parameters = {"steps": plan.steps, "step_size": options["step_size"]}
        values = [{m: v[m] for m in v if m in ABLATION} for v in values]
        rows += rows_of(task, name, "rounding", values, cost, n, parameters)
    for name, bound in bounds().items():
        solver = Counted(ConstantBudget(INNER), **bound, **options)
        again = lambda _, solver=solver: solver  # noqa: E731
        values, cost, _ = bench.repeat(task, again, plan.ablation, plan.seeds)
        parameters = {"steps": plan.steps, "step_size": options["step_size"], **bound}
        values = [{m: v[m] for m in v if m in ABLATION} for v in values]
        rows += rows_of(task, name, "bound", values, cost, n, parameters)
    print(f"{task} done", flush=True)
    return rows, tuned, shown, time.process_time() - begun


def benchmark(
    denoiser: Denoiser, plan: Plan, spiral: Spiral, jobs: int = 1
) -> tuple[dict[str, Any], dict[tuple[str, str], Tensor]]:
    r"""Returns the results, and points for the figure by task and method.

    Arguments:
        denoiser: The prior.
        plan: The sizes.
        spiral: The curve of its data.
        jobs: The number of processes.
    """
    begun = time.perf_counter()
    todo = [(task, denoiser, plan, spiral) for task in TASKS]
    if jobs > 1:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            parts = pool.starmap(measure, todo, chunksize=1)
    else:
        parts = [measure(*one) for one in todo]
    shown = {
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
    return results, shown


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
