r"""Diffusion posterior sampling, in data space and, on a pull-back, in mirror space."""

__all__ = ["DPS"]

from torch import Tensor

from constraints import Constraint
from mdm import Level, Transition

from .base import Run, Sequential, misfit


class DPS(Sequential):
    r"""Creates diffusion posterior sampling: each step also moves by :math:`-\zeta` times the
    gradient, through the denoiser, of the loss

    .. math:: \tfrac1p \| (m - A(\hat y)) / \text{std} \|_2^p + w\, \ell(\hat x),

    where :math:`\hat x` is the field in data space that belongs to :math:`\hat y`. On a `Pullback`
    this is mirror-DPS, with a constraint it is constraint-guided DPS. The published samplers take
    the norm, p = 1, so that :math:`\zeta` keeps its scale as the misfit shrinks; that of Chung et
    al. does not divide by the std.

    References:
        Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023)
        https://arxiv.org/abs/2209.14687

        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        zeta: The step :math:`\zeta`, in field units.
        constraint: The constraint that also guides, if any.
        weight: The weight w of its distance.
        whiten: Whether the misfit is divided by the std, where that is not 0.
        power: The power p of the norm, 1 or 2.
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(
        self,
        zeta: float = 0.05,
        constraint: Constraint | None = None,
        weight: float = 200.0,
        whiten: bool = True,
        power: int = 1,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(transition)
        if power not in (1, 2):
            raise ValueError(f"DPS expects the power 1 or 2 of the norm, got {power}.")
        self.zeta, self.constraint, self.weight = zeta, constraint, weight
        self.whiten, self.power = whiten, power

    def step(self, run: Run, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        def loss(y_hat: Tensor) -> Tensor:
            options = (self.constraint, self.weight, self.whiten, self.power)
            return misfit(run.operator, run.m, y_hat, *options)

        y_hat, gradient = run.pull(y_t, level.t, loss)
        return level.land(level.mean(y_hat, y_t) + run.guard(-self.zeta * gradient))
