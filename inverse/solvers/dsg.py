r"""Diffusion with spherical Gaussian constraint."""

__all__ = ["DSG"]

import math

from torch import Tensor

from constraints import Constraint, NonNegativeFloat, PositiveInt, Share
from mdm import Denoiser, Level, Transition

from .base import Cost, Run, Sequential, unit
from .misfit import Misfit


class DSG(Sequential[None]):
    r"""Creates diffusion with spherical Gaussian constraint: the noise of a step is turned towards
    descent on the sphere on which noise lies anyway. With the gradient G of a `Misfit`,

    .. math::
        y_s = \mu + r \frac{v}{\|v\|}, \quad v = \text{std}\, \epsilon + \gamma \left( - r
        \frac{G}{\|G\|} - \text{std}\, \epsilon \right), \quad r = \sqrt{n}\, \text{std},

    with n the number of entries of a field. A step without noise, as the last step of `DDIM`, is
    not guided.

    References:
        Guidance with Spherical Gaussian Constraint for Conditional Diffusion (Yang et al., 2024)
        https://arxiv.org/abs/2402.03201

    Arguments:
        gamma: The share :math:`\gamma` of the descent in the direction, in [0, 1].
        interval: The number of steps from one guided step to the next.
        constraint: The constraint that also guides, if any.
        weight: The weight of the distance to the constraint.
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(
        self,
        gamma: Share = 0.2,
        interval: PositiveInt = 1,
        constraint: Constraint | None = None,
        weight: NonNegativeFloat = 200.0,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(transition)
        self.gamma, self.interval = gamma, interval
        self.loss = Misfit(constraint, weight)

    def guided(self, level: Level) -> bool:
        r"""Returns whether a level is guided."""
        return level.step.std > 0 and level.k % self.interval == 0

    def step(self, run: Run, state: None, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        if not self.guided(level):
            return level.land(level.mean(run.denoiser(y_t, level.t.to(y_t)), y_t))
        y_hat, gradient = run.slope(y_t, level.t, self.loss)
        mean = level.mean(y_hat, y_t)
        radius = math.sqrt(y_t[0].numel()) * level.step.std
        descent = -radius * unit(run.guard(gradient, limit=math.inf))
        noise = level.step.std * level.noise(y_t)
        return mean + radius * unit(noise + self.gamma * (descent - noise)), mean

    def cost(self, denoiser: Denoiser) -> Cost:
        levels = self.levels(denoiser)
        return Cost(len(levels), sum(map(self.guided, levels)))
