r"""Solvers on priors of few numbers: what is tuned of them, and a timed run."""

__all__ = ["Method", "Unguided", "by_batch", "grid", "solve"]

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from constraints import generator
from inverse import Cost, Operator, Run, Sequential, Trust
from mdm import DDIM, Denoiser, Level, Result, Transition
from namm import CountCalls


class Unguided(Sequential[None]):
    r"""Creates the solver that ignores the measurement."""

    def step(self, run: Run, state: None, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        return level.land(level.mean(run.denoiser(y_t, level.t.to(y_t)), y_t))

    def cost(self, denoiser: Denoiser) -> Cost:
        return Cost(len(self.levels(denoiser)), 0)


def grid(low: float, high: float, n: int) -> list[float]:
    r"""Returns n values from low to high, uniform in the logarithm."""
    return [low * (high / low) ** (i / (n - 1)) for i in range(n)]


@dataclass(frozen=True)
class Method:
    r"""A solver and its tuned attributes.

    Arguments:
        build: From a transition to the solver.
        knob: The attribute that is tuned, if any.
        low: The smallest value of the knob.
        high: The largest value of the knob.
        second: The name and the values of a second thing that is tuned, for half as many values of
            the first: an attribute, or the `start` of the transition.
        projector: Whether the solver is one of pseudoinverse guidance, hence without noise.
        needs_noise: Whether the solver is defined for noisy measurements alone.
    """

    build: Callable[[Transition], Sequential]
    knob: str | None = None
    low: float = 0.0
    high: float = 0.0
    second: tuple[str, tuple[Any, Any]] | None = None
    projector: bool = False
    needs_noise: bool = False

    def settings(self, n: int, pinv: bool = True) -> list[dict[str, Any]]:
        r"""Returns n settings, or one without a knob. Without a pseudo-inverse a chain cannot
        start below 1."""
        if self.knob is None:
            return [{}]
        name, values = (self.second if pinv or not self.projector else None) or ("", (None,))
        knobs = grid(self.low, self.high, n // len(values))
        return [{self.knob: a} | ({name: b} if name else {}) for b in values for a in knobs]

    def solves(self, rounded: bool, noisy: bool) -> bool:
        r"""Returns whether the solver is defined for a measurement, of which a rounded one has no
        gradient."""
        return (noisy or not self.needs_noise) and (
            self.projector or self.knob is None or not rounded
        )

    def solver(self, steps: int, setting: dict[str, Any]) -> Sequential:
        r"""Returns the solver with a setting."""
        transition = DDIM(steps, 0.0, setting.get("start", 1.0)) if self.projector else DDIM(steps)
        solver = self.build(transition)
        for name, value in setting.items():
            if name != "start":
                setattr(solver, name, value)
        return solver

    def joined(self, settings: Sequence[dict[str, Any]], n: int, axes: int) -> dict[str, Any]:
        r"""Returns the setting of one chain for several settings that differ in the knob alone.

        Arguments:
            settings: The settings.
            n: The number of samples of each setting, which follow one another.
            axes: The number of axes of a sample.
        """
        sizes = torch.tensor([s[str(self.knob)] for s in settings]).repeat_interleave(n)
        trust = isinstance(self.build(DDIM(1)), Trust)  # which shapes the sizes itself
        return {**settings[0], str(self.knob): sizes if trust else sizes.view(-1, *[1] * axes)}


def solve(
    solver: Sequential,
    denoiser: Denoiser,
    operator: Operator,
    m: Tensor,
    shape: Sequence[int],
    seeds: Sequence[int],
) -> tuple[Result, dict[str, float]]:
    r"""Runs a solver, with noise drawn for all samples at once. The bound of `Trust` is estimated
    before, at no cost.

    Arguments:
        solver: The solver.
        denoiser: The prior.
        operator: The operator.
        m: The measurements, with shape `(B, *M)`.
        shape: The shape of a field.
        seeds: The seeds of the samples.

    Returns:
        The result, and the `calls`, `vjps` and `seconds` of a sample.
    """
    with mock.patch("mdm.sampler.noise", by_batch):
        solver = solver.prepare(denoiser, shape)
        start = time.perf_counter()
        with CountCalls(denoiser) as counted:
            result = solver(denoiser, operator, m, shape, seeds)
        seconds = (time.perf_counter() - start) / len(m)
    return result, {"calls": counted.calls, "vjps": counted.vjps, "seconds": seconds}


def by_batch(keys: Iterable[Sequence[Any]], shape: Sequence[int], like: Tensor) -> Tensor:
    r"""Draws like `constraints.noise`, but from one generator for all samples, which is several
    times faster here. A list of seeds that repeats gets the same noise again."""
    keys = list(keys)
    distinct = len({key[0] for key in keys})
    fields = torch.randn((distinct, *shape), generator=generator("batch", *keys[0]))
    return fields.repeat(len(keys) // distinct, *[1] * len(shape)).to(like)
