r"""Diffusion posterior sampling, in data space and, on a pull-back, in mirror space."""

__all__ = ["DPS"]

from typing import Literal

from torch import Tensor

from constraints import Constraint, NonNegativeFloat
from mdm import Level, Transition

from .base import Run, Sequential
from .misfit import Misfit


class DPS(Sequential[None]):
    r"""Creates diffusion posterior sampling: each step also moves by :math:`-\zeta` times the
    gradient of a `Misfit`, through the denoiser. On a `Pullback` this is mirror-DPS, with a
    constraint it is constraint-guided DPS. The published samplers take the norm, p = 1, so that
    :math:`\zeta` keeps its scale as the misfit shrinks; Chung et al. do not divide by the std.

    References:
        Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023)
        https://arxiv.org/abs/2209.14687

        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        zeta: The step :math:`\zeta`, in field units.
        constraint: The constraint that also guides, if any.
        weight: The weight of the distance to the constraint.
        whiten: Whether the misfit is divided by the std, where the std is not 0.
        power: The power p of the norm, 1 or 2.
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(
        self,
        zeta: NonNegativeFloat = 0.05,
        constraint: Constraint | None = None,
        weight: NonNegativeFloat = 200.0,
        whiten: bool = True,
        power: Literal[1, 2] = 1,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(transition)
        self.zeta, self.loss = zeta, Misfit(constraint, weight, whiten, power)

    def step(self, run: Run, state: None, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        y_hat, gradient = run.slope(y_t, level.t, self.loss)
        return level.land(level.mean(y_hat, y_t) + run.guard(-self.zeta * gradient))
