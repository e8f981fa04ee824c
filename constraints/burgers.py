r"""The viscous Burgers equation in one dimension,

.. math:: u_t + u u_x = \nu u_{xx},

on a periodic grid, with central differences in space and one of two schemes in time.

A field is a whole space-time image `(B, 1, X, T)`: x is the second-last axis and ascends, t is the
last. Each frame must be the solver's step from the frame before.
"""

__all__ = ["Burgers"]

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .base import Constraint
from .batch import Given
from .errors import check_fields
from .ranges import PositiveFloat, PositiveInt


class Burgers(Constraint):
    r"""Creates the constraint that every frame of a field follows from the one before.

    `euler` is the explicit scheme behind the published data (which the public code calls
    Crank-Nicolson); `crank_nicolson` is the implicit trapezoidal rule, solved by Newton's method
    to the precision of its input.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        scheme: The scheme in time.
        viscosity: The viscosity :math:`\nu`, in length² / time.
        length: The coordinate of the last grid point. The grid starts at 0, so that the spacing
            is `length / (X - 1)` and the period `X` spacings.
        dt: The time between two frames.
        substeps: The number of solver steps in a frame.
    """

    def __init__(
        self,
        scheme: Literal["euler", "crank_nicolson"] = "euler",
        viscosity: PositiveFloat = 0.05,
        length: PositiveFloat = 10.0,
        dt: PositiveFloat = 0.125,
        substeps: PositiveInt = 5,
    ) -> None:
        super().__init__()
        self.scheme = scheme
        self.viscosity = viscosity
        self.length = length
        self.dt = dt
        self.substeps = substeps

    def step(self, u: Tensor) -> Tensor:
        r"""Advances states by one frame.

        Arguments:
            u: The states, with shape `(*, X, T)`: T independent states side by side.

        Returns:
            The states `dt` later, with shape `(*, X, T)`.
        """
        advance = self._euler if self.scheme == "euler" else self._crank_nicolson
        dx, dt = self.length / (u.shape[-2] - 1), self.dt / self.substeps
        for _ in range(self.substeps):
            u = advance(u, dx, dt)
        return u

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns `x[k + 1] - step(x[k])` for all frames.

        Arguments:
            x: The fields, with shape `(B, 1, X, T)`.

        Returns:
            The residuals, with shape `(B, 1, X, T - 1)`.
        """
        return x[..., 1:] - self.step(x[..., :-1])

    def attributes(self) -> dict[str, Any]:
        return {
            "problem": "burgers",
            "boundary": {"x": "periodic", "t": "none"},
            "parameters": {
                "viscosity": self.viscosity,
                "length": self.length,
                "dt": self.dt,
                "substeps": self.substeps,
                "scheme": self.scheme,
            },
        }

    def check_shape(self, x: Tensor) -> None:
        fits = x.ndim == 4 and x.shape[1] == 1 and x.shape[2] >= 3 and x.shape[3] >= 2
        check_fields(self, x, "(B, 1, X, T) with at least 3 points and 2 frames", fits)

    def unknowns(self, shape: Sequence[int]) -> int:
        return math.prod(shape[:-1])  # the numbers of the frame at the start

    def _velocity(self, u: Tensor, dx: float) -> Tensor:
        right, left = u.roll(-1, -2), u.roll(1, -2)
        diffusion = self.viscosity / dx**2 * (right - 2 * u + left)
        return diffusion - u * (right - left) / (2 * dx)

    def _euler(self, u: Tensor, dx: float, dt: float) -> Tensor:
        return u + dt * self._velocity(u, dx)

    def _crank_nicolson(self, u: Tensor, dx: float, dt: float) -> Tensor:
        known = u + dt / 2 * self._velocity(u, dx)
        v, target = u.detach(), known.detach()
        tolerance = 4 * torch.finfo(u.dtype).eps * (1 + v.abs().amax(dim=-2, keepdim=True))
        moving = torch.ones_like(tolerance, dtype=torch.bool)
        for _ in range(20):
            # a state that has converged stays, even if its neighbours in the batch still move
            update = torch.where(moving, self._newton(v, target, dx, dt), 0)
            v = v - update
            moving = update.abs().amax(dim=-2, keepdim=True) > tolerance
            if not moving.any():
                break
        # One more Newton step, now on the graph: by the implicit function theorem this step and
        # the converged solution have the same derivative with respect to u.
        return v - self._newton(v, known, dx, dt)

    def _newton(self, v: Tensor, known: Tensor, dx: float, dt: float) -> Tensor:
        r"""Solves `(I - dt/2 J(v)) update = v - dt/2 velocity(v) - known` along x."""
        right, left = v.roll(-1, -2), v.roll(1, -2)
        advect = v / (2 * dx)
        diffuse = torch.full_like(v, self.viscosity / dx**2)
        centre = -2 * diffuse - (right - left) / (2 * dx)
        eye = torch.eye(v.shape[-2], dtype=v.dtype, device=v.device)
        # the entries of a row of J at the point itself, at its right and at its left
        bands = zip(
            (centre, diffuse - advect, diffuse + advect),
            (eye, eye.roll(1, 1), eye.roll(-1, 1)),
            strict=True,
        )
        jacobian = torch.stack([b.transpose(-1, -2).unsqueeze(-1) * e for b, e in bands]).sum(0)
        defect = (v - dt / 2 * self._velocity(v, dx) - known).transpose(-1, -2)
        update: Tensor = torch.linalg.solve(eye - dt / 2 * jacobian, defect.unsqueeze(-1))
        return update.squeeze(-1).transpose(-1, -2)
