r"""Two-dimensional incompressible flow with a sinusoidal force, named after Kolmogorov,

.. math::
    \partial_t \mathbf{v} + \nabla \cdot (\mathbf{v} \otimes \mathbf{v}) + \nabla p
    = \nu \nabla^2 \mathbf{v} + A \sin(k y) \, \mathbf{e}_x - \gamma \mathbf{v}, \quad
    \nabla \cdot \mathbf{v} = 0,

on a periodic staggered grid of square cells of side h: u at ((i + 1) h, (j + 1/2) h), v at
((i + 1/2) h, (j + 1) h). A field holds T states as `(B, T * 2, X, Y)`, packed
`b t c x y -> b (t c) x y`: x is the second-last axis, y the last.

Each step of the solver, described in `van_leer`, is of forward Euler and ends with a projection.
"""

__all__ = ["Divergence", "NavierStokes"]

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..base import Constraint
from ..batch import Given
from ..errors import InputError, check_fields
from ..ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Real
from .spectral import divergence, project
from .van_leer import Stepper

BOUNDARY = {"x": "periodic", "y": "periodic", "t": "none"}
PART = 2**16  # bytes of one component of the states that are stepped together, to fit a cache


class Divergence(Constraint):
    r"""Creates the constraint that no state of a flow has a divergence.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        dx: The side h of a cell.
    """

    def __init__(self, dx: PositiveFloat = 2 * math.pi / 64) -> None:
        super().__init__()
        self.dx = dx

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns the backward divergence of each state.

        Arguments:
            x: The fields, with shape `(B, T * 2, X, Y)`.

        Returns:
            The residuals, with shape `(B, T, X, Y)`.
        """
        return divergence(x.unflatten(1, (-1, 2))) / self.dx

    def nearest(self, x: Tensor, given: Given | None = None) -> Tensor:
        return project(x.unflatten(1, (-1, 2)).flatten(0, 1)).reshape(x.shape)

    def attributes(self) -> dict[str, Any]:
        return {"problem": "kolmogorov", "boundary": BOUNDARY, "parameters": {"dx": self.dx}}

    def check_shape(self, x: Tensor) -> None:
        _check_states(self, x, 1)

    def unknowns(self, shape: Sequence[int]) -> int:
        # a stream function and a mean flow for each state
        channels, x, y = shape
        return channels // 2 * (x * y + 1)


class NavierStokes(Constraint):
    r"""Creates the constraint that every state of a flow follows from the one before.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        viscosity: The viscosity :math:`\nu`, in length² / time.
        length: The period in x, so that the side of a cell is `length / X`.
        wavenumber: The wavenumber k of the force, in 1 / length.
        amplitude: The amplitude A of the force, in length / time².
        drag: The rate :math:`\gamma` of a linear drag, in 1 / time.
        dt: The time between two states.
        substeps: The number of solver steps between two states.
    """

    def __init__(
        self,
        viscosity: NonNegativeFloat = 1e-3,
        length: PositiveFloat = 2 * math.pi,
        wavenumber: Real = 4.0,
        amplitude: Real = 1.0,
        drag: NonNegativeFloat = 0.1,
        dt: PositiveFloat = 0.2,
        substeps: PositiveInt = 20,
    ) -> None:
        super().__init__()
        self.viscosity = viscosity
        self.length = length
        self.wavenumber = wavenumber
        self.amplitude = amplitude
        self.drag = drag
        self.dt = dt
        self.substeps = substeps

    def step(self, uv: Tensor) -> Tensor:
        r"""Advances states by one frame.

        Arguments:
            uv: The states, with shape `(*, 2, X, Y)`.

        Returns:
            The states `dt` later, with shape `(*, 2, X, Y)`.
        """
        frames = [self._frame(part, self._stepper(part)) for part in _parts(uv)]
        return torch.cat(frames).reshape(uv.shape)

    def roll(self, uv: Tensor, frames: int, first: int = 1) -> Tensor:
        r"""Advances states by several frames. The results equal the results of `step` to the last
        bit, and come sooner and without gradients, since memory is used over and over.

        Arguments:
            uv: The states, with shape `(*, 2, X, Y)`.
            frames: The number N of frames.
            first: The frame F from which states are returned; the initial states are frame 0.

        Returns:
            The states of frame F and of all after it, with shape `(N - F + 1, *, 2, X, Y)`.
        """
        states = uv.new_empty(frames - first + 1, *uv.shape)

        def advance(part: Tensor, *kept: Tensor) -> None:
            with torch.inference_mode():
                stepper = self._stepper(part, keep=True)
                for frame in range(frames + 1):
                    part = self._frame(part, stepper) if frame > 0 else part
                    if frame >= first:
                        kept[frame - first].copy_(part)

        with _workers() as workers:
            list(workers.map(advance, _parts(uv), *map(_parts, states)))
        return states

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns `v[k + 1] - step(v[k])` for all states.

        Arguments:
            x: The fields, with shape `(B, T * 2, X, Y)`.

        Returns:
            The residuals, with shape `(B, (T - 1) * 2, X, Y)`.
        """
        return x[:, 2:] - self.step(x[:, :-2].unflatten(1, (-1, 2))).flatten(1, 2)

    def attributes(self) -> dict[str, Any]:
        amplitude = "" if self.amplitude == 1 else f"{self.amplitude:g} "
        return {
            "problem": "kolmogorov",
            "boundary": BOUNDARY,
            "parameters": {
                "viscosity": self.viscosity,
                "length": self.length,
                "forcing": f"{amplitude}sin({self.wavenumber:g} y) on u",
                "drag": self.drag,
                "dt": self.dt,
                "substeps": self.substeps,
            },
        }

    def check_shape(self, x: Tensor) -> None:
        _check_states(self, x, 2)
        periods = self.wavenumber * self.length * x.shape[3] / x.shape[2] / (2 * math.pi)
        if abs(periods - round(periods)) > 1e-6:
            raise InputError(
                f"NavierStokes expects a force with whole periods in y, got {periods:g} periods "
                f"on fields {tuple(x.shape)}: choose another wavenumber, length or grid."
            )

    def unknowns(self, shape: Sequence[int]) -> int:
        return 2 * math.prod(shape[1:])  # the numbers of one state, with its divergence

    def _stepper(self, uv: Tensor, keep: bool = False) -> Stepper:
        h, dt = self.length / uv.shape[-2], self.dt / self.substeps
        y = h * (torch.arange(uv.shape[-1], dtype=torch.float64, device=uv.device) + 0.5)
        force = self.amplitude * torch.sin(self.wavenumber * y) * dt / self._unit(uv)
        return Stepper(uv, self.viscosity * dt / h**2, 1 - self.drag * dt, force, keep)

    def _frame(self, uv: Tensor, stepper: Stepper) -> Tensor:
        unit = self._unit(uv)
        return unit * stepper(uv / unit, self.substeps)

    def _unit(self, uv: Tensor) -> float:
        return 2 * self.length / uv.shape[-2] * self.substeps / self.dt


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    # each thread with parts of its own: together on one small operation they mostly wait
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as workers:
            yield workers
    finally:
        torch.set_num_threads(threads)


def _parts(uv: Tensor) -> Sequence[Tensor]:
    states = uv.reshape(-1, *uv.shape[-3:])
    size = max(1, PART // (uv.shape[-1] * uv.shape[-2] * uv.element_size()))
    parts: Sequence[Tensor] = states.split(len(states) if uv.is_cuda else size)
    return parts


def _check_states(constraint: Constraint, x: Tensor, least: int) -> None:
    fits = x.ndim == 4 and x.shape[1] % 2 == 0 and x.shape[1] >= 2 * least
    wanted = f"(B, T * 2, X, Y) with T from {least} and at least 3x3 points"
    check_fields(constraint, x, wanted, fits and min(x.shape[2:]) >= 3)
