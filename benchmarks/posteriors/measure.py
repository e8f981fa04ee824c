r"""Tunes solvers on problems whose posterior is known, and measures how close they come."""

__all__ = ["QUICK", "Plan", "measure", "run", "tune"]

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from constraints import derive_seed
from inverse import Sequential

from ..common.numbers import Row, rows_of, tidy
from ..common.solving import Method, solve
from .methods import METHODS, affordable, alike
from .problems import TASKS, Problem, prior, problem, scores, sliced_w2


@dataclass(frozen=True)
class Plan:
    r"""The sizes of a benchmark.

    Arguments:
        dims: The numbers of entries of a field.
        exact: Those of the problems without noise.
        quantised: Those of the problems with rounding.
        budgets: The numbers of calls.
        settings: The number of settings that a solver is tuned over.
        tune: The number of samples for each setting and each of two measurements.
        n: The number of samples of each seed.
        reference: The number of reference samples.
        seeds: The number of seeds.
    """

    dims: tuple[int, ...] = (2, 16, 64)
    exact: tuple[int, ...] = (16,)
    quantised: tuple[int, ...] = (2,)
    budgets: tuple[int, ...] = (20, 200, 1000)
    settings: int = 10
    tune: int = 64
    n: int = 256
    reference: int = 2048
    seeds: int = 3


QUICK = Plan((2,), (2,), (2,), (5, 10), 4, 16, 32, 128, 2)


def run(
    p: Sequence[Problem], solver: Sequential, seeds: list[int], per: int, repeats: int = 1
) -> tuple[Tensor, Row]:
    r"""Returns samples, and the cost of each.

    Arguments:
        p: The problems, which differ in their measurement alone.
        solver: The solver.
        seeds: The seeds of the samples, `per` for each problem.
        per: The number of samples for each problem.
        repeats: How many times all of it is repeated, with the same noise.
    """
    m = torch.cat([one.m.expand(per, *one.m.shape[1:]) for one in p])
    m = m.repeat(repeats, *[1] * (m.ndim - 1))
    shape = (1, p[0].reference.shape[1])
    result, cost = solve(solver, p[0].denoiser, p[0].operator, m, shape, seeds * repeats)
    return result.y[:, 0], cost


def tune(
    method: Method, steps: int, settings: list[Row], p: Sequence[Problem], per: int
) -> list[float]:
    r"""Returns the mean distance of each setting over the problems, from so many samples per
    problem."""
    seeds = [derive_seed("tune", i) for i in range(per * len(p))]
    batches = [[s] for s in settings]
    if not method.projector:  # one chain for all step sizes, each sample with its own
        seconds = sorted({s.get("interval", 0) for s in settings})
        batches = [[s for s in settings if s.get("interval", 0) == b] for b in seconds]
    out: dict[str, float] = {}
    for batch in batches:
        setting = method.joined(batch, len(seeds), 2) if len(batch) > 1 else batch[0]
        y, _ = run(p, method.solver(steps, setting), seeds, per, len(batch))
        for s, ours in zip(batch, y.chunk(len(batch)), strict=True):
            each = zip(p, ours.chunk(len(p)), strict=True)
            out[str(s)] = statistics.mean(sliced_w2(z, one.reference) for one, z in each)
    return [out[str(s)] for s in settings]


def measure(kind: str, d: int, task: str, plan: Plan) -> Row:
    r"""Returns the rows of a problem, how each method was tuned, and the seconds of one core."""
    torch.set_num_threads(1)
    begun = time.process_time()
    truth = problem(kind, d, task, "evaluate", plan.reference)
    trials = [problem(kind, d, task, f"tune {i}", plan.reference // 2) for i in range(2)]
    seeds = [derive_seed("evaluate", i) for i in range(plan.n * plan.seeds)]
    if task == "disc":
        again = problem(kind, d, task, "floor", len(seeds)).reference
    else:  # of the same measurement, after the samples of the reference
        whole = problem(kind, d, task, "evaluate", plan.reference + len(seeds))
        again = whole.reference[plan.reference :]
        if task == "quantised":  # whose accepted draws depend on their number
            truth = replace(whole, reference=whole.reference[: plan.reference])
    values = [scores(truth, y) for y in again.chunk(plan.seeds)]
    free = {"n": len(seeds), "calls": 0, "vjps": 0, "flops": None, "seconds": 0.0}
    about = {"task": truth.name, "method": "exact samples", "protocol": "floor"}
    rows, tuned = rows_of(about, values, free), []
    for name, method in METHODS.items():
        if not method.solves(task == "quantised", TASKS[task] > 0):
            continue
        settings, best = method.settings(plan.settings, task != "disc"), 0
        for calls in plan.budgets:
            steps = affordable(name, prior("gaussian", 2), calls)
            chosen = list(range(len(settings)))
            about = {"task": truth.name, "method": name, "protocol": f"{calls} calls"}
            if calls == plan.budgets[-1] and len(settings) > 1:
                chosen = alike(settings, best, str(method.knob))
            if len(chosen) > 1:
                tried = [settings[i] for i in chosen]
                distances = tune(method, steps, tried, trials, plan.tune)
                best = chosen[min(range(len(chosen)), key=distances.__getitem__)]
                ends = (method.low, method.high)
                edge = any(math.isclose(settings[best][method.knob], end) for end in ends)
                tuned.append(
                    about
                    | {"steps": steps, "setting": _tidy(settings[best]), "edge": edge}
                    | {"trials": len(chosen), "sw2": tidy(min(distances))}
                )
            solver = method.solver(steps, settings[best])
            y, cost = run([truth], solver, seeds, len(seeds))
            values = [scores(truth, z) for z in y.chunk(plan.seeds)]
            rows += rows_of(about, values, {**free, **cost, "seconds": tidy(cost["seconds"])})
    print(f"{truth.name} done", flush=True)
    return {"rows": rows, "tuned": tuned, "seconds": time.process_time() - begun}


def _tidy(setting: Row) -> Row:
    return {k: tidy(v) if isinstance(v, float) else v for k, v in setting.items()}
