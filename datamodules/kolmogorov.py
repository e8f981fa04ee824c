r"""Trajectories of the Kolmogorov flow from random velocities.

An initial velocity is white noise, filtered to wavenumbers around a peak :math:`k_0` by

.. math:: \frac{1}{k} \exp\left(-2 \ln^2 \frac{k}{k_0}\right),

a log-normal density of log-variance 1/4 in k, spread over the circle of all directions. It is then
projected to zero divergence and scaled to a maximum speed. The flow forgets the initial velocity
until `start`, the time of the earliest state.
"""

__all__ = ["KolmogorovData"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constraints import (
    Constraint,
    Divergence,
    InputError,
    Key,
    NavierStokes,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    noise,
    spectral,
)

from .simulated import Coords, SimulatedData

COURANT = 0.5  # of a step at the maximum speed: a velocity moves by half a cell at most


class KolmogorovData(SimulatedData):
    r"""Creates trajectories of the Kolmogorov flow, rolled out by a solver.

    A field has shape `(frames * 2, points, points)`, packed `b t c x y -> b (t c) x y`. Flows are
    computed in float64 and stored in float32.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        constraint: The constraint that the fields satisfy: `Divergence`, `NavierStokes` or the
            `Sum` of both.
        flow: The solver; if missing, the `NavierStokes` in the constraint, or else the default.
        points: The number of grid points along each side.
        frames: The number of states in a field.
        start: The time of the earliest state, a whole number of frames.
        max_velocity: The maximum speed of an initial velocity.
        peak_wavenumber: The wavenumber :math:`k_0`, in 1 / length.
        kwargs: The arguments of `SimulatedData`.

    Raises:
        InputError: If the solver contradicts the constraint, if the steps of the solver are not
            stable, or if another argument is out of its range.
    """

    def __init__(
        self,
        constraint: Constraint,
        flow: NavierStokes | None = None,
        points: PositiveInt = 64,
        frames: PositiveInt = 8,
        start: NonNegativeFloat = 3.0,
        max_velocity: PositiveFloat = 3.0,
        peak_wavenumber: PositiveFloat = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, **kwargs)
        own = [term for term in constraint.modules() if isinstance(term, NavierStokes)]
        self.flow = flow or (own[0] if own else NavierStokes())
        self.points = points
        self.frames = frames
        self.start = start
        self.max_velocity = max_velocity
        self.peak_wavenumber = peak_wavenumber
        self.dx = self.flow.length / points
        constraint.check_shape(torch.empty(1, 2 * frames, points, points))
        self.flow.check_shape(torch.empty(1, 2 * max(frames, 2), points, points))
        self._check_terms()
        self._check_steps()
        # the rounding of a field to float32 shows more on a finer grid
        self.floor = 1e-6 * max(1, points / 64)

    def _check_terms(self) -> None:
        own = self.flow.attributes()["parameters"]
        for term in self.constraint.modules():
            wanted = term.attributes()["parameters"] if isinstance(term, NavierStokes) else own
            if wanted != own:
                raise InputError(
                    f"The flow has {own}, but the constraint asks for {wanted}: give both the "
                    f"same values, or leave the flow out."
                )
            if isinstance(term, Divergence) and not math.isclose(term.dx, self.dx):
                raise InputError(
                    f"Divergence has dx = {term.dx:g}, but {self.points} points over a length of "
                    f"{self.flow.length:g} are {self.dx:g} apart: give it dx = {self.dx!r}."
                )

    def _check_steps(self) -> None:
        ratio = self.start / self.flow.dt
        if abs(ratio - round(ratio)) > 1e-6:
            frames = f"frames of {self.flow.dt:g}"
            raise InputError(f"The start is no whole number of {frames}, got {self.start:g}.")
        dt = self.flow.dt / self.flow.substeps
        limits = {"the maximum velocity": COURANT * self.dx / self.max_velocity}
        if self.flow.viscosity > 0:
            limits["diffusion"] = self.dx**2 / (4 * self.flow.viscosity)
        name = min(limits, key=lambda key: limits[key])
        if dt > limits[name]:
            substeps = math.ceil(self.flow.dt / limits[name])
            raise InputError(
                f"The solver makes steps of {dt:g}, but {name} allows {limits[name]:g} on this "
                f"grid: give it at least {substeps} substeps."
            )

    def initial(self, keys: Sequence[Key]) -> Tensor:
        r"""Returns initial velocities.

        Arguments:
            keys: The B keys of the fields.

        Returns:
            The velocities, with shape `(B, 2, points, points)`.
        """
        double = torch.empty(0, dtype=torch.float64)
        white = noise([(*key, "velocity") for key in keys], (2, self.points, self.points), double)
        k = 2 * math.pi / self.flow.length * spectral.wavenumbers(self.points)
        k = torch.hypot(k[:, None], k)
        weights = torch.exp(-2 * (k / self.peak_wavenumber).log().square()) / k
        weights[0, 0] = 0  # no mean flow
        filtered = spectral.multiply_modes(white.flatten(0, 1), weights)
        uv = spectral.project(filtered.unflatten(0, (-1, 2)))
        speed: Tensor = torch.linalg.vector_norm(uv, dim=1).amax(dim=(1, 2))
        return uv * (self.max_velocity / speed)[:, None, None, None]

    def draw(self, keys: Sequence[Key]) -> Tensor:
        start = round(self.start / self.flow.dt)
        states = self.flow.roll(self.initial(keys), start + self.frames - 1, start)
        return states.transpose(0, 1).flatten(1, 2)

    def coords(self) -> Coords:
        centres = self.dx * (np.arange(self.points) + 0.5)
        units = "length (cell centres; u sits at x+h/2, v at y+h/2)"
        t = self.start + self.flow.dt * np.arange(self.frames)
        return {"x": (centres, units), "y": (centres, units), "t": (t, "time")}

    def describe(self) -> dict[str, Any]:
        dt = self.flow.dt / self.flow.substeps
        flow, own = self.flow.attributes(), self.constraint.attributes()
        return {
            **flow,
            "axes": ["x", "y"],
            "channels": ["u", "v"],
            "packing": "b t c x y -> b (t c) x y",
            "points": self.points,
            "frames": self.frames,
            "parameters": {
                **own.get("parameters", {}),
                **flow["parameters"],
                "dx": self.dx,
                "t0": self.start,
                "max_initial_velocity": self.max_velocity,
                "peak_wavenumber": self.peak_wavenumber,
            },
            "initial": "white noise, filtered log-normally around the peak wavenumber, projected "
            "and scaled to the maximum velocity",
            "solver": f"staggered grid; van Leer flux-limited convection, explicit diffusion, "
            f"forward Euler {dt:g}, pressure projection; float64",
            "units": "dimensionless",
        }
