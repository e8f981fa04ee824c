r"""Loss-guided diffusion with Monte Carlo samples of the clean field."""

__all__ = ["LGDMC"]

import math
from typing import Literal

import torch
from torch import Tensor

from constraints import Constraint, NonNegativeFloat, PositiveInt, take
from mdm import Level, Transition

from .base import Run, Sequential, unit
from .misfit import Misfit


class LGDMC(Sequential[None]):
    r"""Creates loss-guided diffusion: the clean field is not the point :math:`\hat y` but a ball
    around it, :math:`\mathcal{N}(\hat y, r_t^2 I)`, and each step also moves by

    .. math::
        w \nabla_{y_t} \log \frac1n \sum_{i=1}^n \exp(-L(\hat y + r_t z_i)), \quad
        r_t = \frac{\sigma_t}{\sqrt{\alpha_t^2 + \sigma_t^2}},

    with the loss L of a `Misfit`. The radius of the published code has the std of the transition
    in place of :math:`\sigma_t / \alpha_t`, which is several times smaller.

    References:
        Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (Song et al., 2023)
        https://proceedings.mlr.press/v202/song23k.html

    Arguments:
        samples: The number n of samples of the clean field, which cost calls of the operator but
            none of the denoiser.
        step_size: The step w, in field units.
        normalise: Whether the gradient of each sample is scaled to length 1, as published.
        radius: The radius: `posterior` as above, or `published` as in the published code.
        power: The power p of the norm in the loss, 1 or 2.
        constraint: The constraint that also guides, if any.
        weight: The weight of the distance to the constraint.
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(
        self,
        samples: PositiveInt = 10,
        step_size: NonNegativeFloat = 0.05,
        normalise: bool = False,
        radius: Literal["posterior", "published"] = "posterior",
        power: Literal[1, 2] = 1,
        constraint: Constraint | None = None,
        weight: NonNegativeFloat = 200.0,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(transition)
        self.samples, self.step_size, self.normalise = samples, step_size, normalise
        self.radius, self.loss = radius, Misfit(constraint, weight, power=power)

    def step(self, run: Run, state: None, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        n, shape = self.samples, y_t.shape
        r = level.sigma_t / math.hypot(level.alpha_t, level.sigma_t)
        if self.radius == "published":
            r = level.step.std / math.hypot(1, level.step.std)
        z = level.noise(y_t[:, None].expand(-1, n, *shape[1:]), "lgd")
        rows = torch.arange(len(y_t), device=y_t.device).repeat_interleave(n)
        m, given = run.m[rows], take(run.given, rows)

        def loss(y_hat: Tensor) -> Tensor:
            ball = (y_hat[:, None] + r * z).reshape(-1, *shape[1:])
            values = self.loss(run.operator, m, ball, given).reshape(-1, n)
            return math.log(n) - torch.logsumexp(-values, dim=1)

        y_hat, gradient = run.pull(y_t, level.t, loss)
        if self.normalise:
            gradient = unit(gradient)
        return level.land(level.mean(y_hat, y_t) + run.guard(-self.step_size * gradient))
