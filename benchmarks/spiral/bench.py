r"""Tunes and judges solvers on the constraints of the spiral."""

__all__ = ["LOST", "Bench"]

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from constraints import Spiral, derive_seed, generator
from inverse import Residual, Sequential
from mdm import Denoiser
from namm import CountFlops

from ..common.numbers import Row, rows_of, tidy
from ..common.solving import solve
from .tasks import METHODS, NEAR, TASKS, Task, slope

SHAPE = (2, 1, 1)
LOST = 4.0  # radii of the spiral from its middle: a sample that has run away


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
    ) -> tuple[Tensor, Row, Row]:
        r"""Returns the points, the cost of each, and the report. All of it is repeated so many
        times, with the same noise."""
        operator = Residual(TASKS[task].polynomial(), std=1.0)
        m = torch.zeros(repeats * len(seeds), 1)
        result, cost = solve(solver, self.denoiser, operator, m, SHAPE, seeds * repeats)
        cost["flops"] = cost["calls"] * self.forward + cost["vjps"] * self.backward
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

    def tune(self, task: str, name: str, steps: int, count: int, n: int) -> Row:
        r"""Returns how a solver was tuned over some values, of some samples each: the value of the
        smallest score, and all tried."""
        method = METHODS[name]
        settings = method.settings(count)
        values = [setting[str(method.knob)] for setting in settings]
        seeds = [derive_seed("tune", i) for i in range(n)]
        # one chain for all values, each sample with its own
        solver = method.solver(steps, method.joined(settings, n, 3))
        y, _, _ = self.solve(task, solver, seeds, len(values))
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

    def rows(
        self,
        about: Row,
        build: Callable[[int], Sequential],
        sizes: tuple[int, int],
        metrics: Sequence[str],
        parameters: Row,
    ) -> tuple[list[Row], Tensor]:
        r"""Returns the rows of one run, and the points of seed 0. The solver is built by the
        number of the seed; the sizes are the number of samples of a seed, and the number of
        seeds."""
        n, seeds = sizes
        values, costs, points = [], [], []
        for k in range(seeds):
            keys = [derive_seed("evaluate", k, i) for i in range(n)]
            y, cost, report = self.solve(about["task"], build(k), keys)
            value = self.scores(about["task"], y)
            if "inner_steps" in report:
                value["inner"] = statistics.mean(report["inner_steps"][:-1])
                value["accepted"] = statistics.mean(report["accepted"])
            if "needed" in report:
                value["needed_calls"] = statistics.mean(report["needed"])
            values.append({metric: v for metric, v in value.items() if metric in metrics})
            costs.append(cost)
            points.append(y)
        spent = {key: tidy(statistics.mean(c[key] for c in costs)) for key in costs[0]}
        spent = {"n": n * seeds, **spent, "parameters": parameters}
        return rows_of(about, values, spent), points[0]
