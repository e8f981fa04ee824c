r"""Diffusion posterior sampling, in data space and, on a pull-back, in mirror space."""

__all__ = ["DPS"]

import torch
from torch import Tensor

from constraints import Constraint
from mdm import Denoiser, Transition

from .operators import Operator
from .solver import Sequential


class DPS(Sequential):
    r"""Creates diffusion posterior sampling with the norm of each sample's own misfit,

    .. math:: -\zeta \nabla_{y_t} \left( \| (m - A(\hat y)) / \text{std} \|_2
        + w\, \ell(\hat x) \right),

    where :math:`\hat x` is the field in data space that belongs to :math:`\hat y`. On a `Pullback`
    this is mirror-DPS, with a constraint it is constraint-guided DPS. The norm, not its square, so
    that :math:`\zeta` keeps its scale as the misfit shrinks.

    References:
        Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023)
        https://arxiv.org/abs/2209.14687

        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        zeta: The step :math:`\zeta`, in field units.
        constraint: The constraint that also guides, if any.
        weight: The weight w of its distance.
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(
        self,
        zeta: float = 0.05,
        constraint: Constraint | None = None,
        weight: float = 200.0,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(transition)
        self.zeta, self.constraint, self.weight = zeta, constraint, weight

    def guidance(
        self, denoiser: Denoiser, operator: Operator, m: Tensor, y_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y_t = y_t.requires_grad_()
            y_hat = denoiser(y_t, t)
            misfit = ((m - operator(y_hat)) / operator.std).flatten(1)
            loss = torch.linalg.vector_norm(misfit, dim=1)
            if self.constraint is not None:
                loss = loss + self.weight * self.constraint(operator.field(y_hat))
            (gradient,) = torch.autograd.grad(loss.sum(), y_t)
        return y_hat, -self.zeta * gradient
