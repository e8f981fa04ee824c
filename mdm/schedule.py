r"""Noise schedules: at time t, which runs from 1 (noise) to 0 (data),

.. math:: y_t = \alpha_t y + \sigma_t \epsilon, \quad \epsilon \sim \mathcal{N}(0, I).

The diffusion runs in the units of the field itself.
"""

__all__ = ["CosineSchedule", "FlowSchedule", "Schedule", "VPSchedule"]

import abc
import math

import torch
from torch import Tensor

from constraints import NonNegativeFloat, OpenShare, PositiveFloat, Ranged


class Schedule(Ranged, abc.ABC):
    r"""Base of all schedules."""

    @abc.abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the signal scale and the noise std.

        Arguments:
            t: The times in [0, 1], with shape `(*)`.

        Returns:
            :math:`\alpha_t` and :math:`\sigma_t`, each with shape `(*)`.
        """

    def invert(self, log_ratio: Tensor, end: float = 1e-3) -> Tensor:
        r"""Returns the times at which :math:`\log(\alpha_t / \sigma_t)`, which falls with time,
        has given values; where no time has, the nearest end.

        Arguments:
            log_ratio: The values, with shape `(*)`.
            end: The smallest time.

        Returns:
            The times in `[end, 1]`, float64 with shape `(*)`.
        """
        target = log_ratio.double()
        lower, upper = torch.full_like(target, end), torch.ones_like(target)
        for _ in range(40):  # bisection
            middle = (lower + upper) / 2
            alpha, sigma = self(middle)
            later = alpha.log() - sigma.log() < target
            lower, upper = torch.where(later, lower, middle), torch.where(later, middle, upper)
        return (lower + upper) / 2

    def log_uniform(self, start: float, end: float, n: int) -> Tensor:
        r"""Returns n times from `start` to `end` at which the log signal-to-noise ratio is equally
        spaced, float64."""
        alpha, sigma = self(torch.tensor([start, end], dtype=torch.float64))
        # a flow has no signal at all at time 1
        first, last = (alpha.clamp(min=1e-6).log() - sigma.log()).tolist()
        return self.invert(torch.linspace(first, last, n, dtype=torch.float64), end)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the derivatives of :math:`\alpha_t` and :math:`\sigma_t` in time, each with
        shape `(*)`.

        Arguments:
            t: The times in (0, 1], with shape `(*)`.
        """
        slopes: tuple[Tensor, Tensor] = torch.func.jvp(self, (t,), (torch.ones_like(t),))[1]
        return slopes


class VPSchedule(Schedule):
    r"""Creates the variance-preserving schedule whose rate :math:`\beta` is linear in time.

    .. math::
        \alpha_t = \exp\left(-\tfrac14 (\beta_1 - \beta_0) t^2 - \tfrac12 \beta_0 t\right), \quad
        \sigma_t = \sqrt{1 - \alpha_t^2}

    References:
        Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
        2021) https://arxiv.org/abs/2011.13456

    Arguments:
        beta_min: The rate at t = 0.
        beta_max: The rate at t = 1.
    """

    def __init__(self, beta_min: NonNegativeFloat = 0.1, beta_max: PositiveFloat = 20.0) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


class CosineSchedule(Schedule):
    r"""Creates the variance-preserving schedule :math:`\alpha_t = \cos(\tfrac{\pi}{2} c t)`.

    Arguments:
        end: The fraction c of the quarter turn, below 1 so that some signal is left at t = 1.
    """

    def __init__(self, end: OpenShare = 0.99) -> None:
        self.end = end

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = 0.5 * math.pi * self.end * t
        return angle.cos(), angle.sin()


class FlowSchedule(Schedule):
    r"""Creates the straight path of flow matching, :math:`\alpha_t = 1 - t`, :math:`\sigma_t = t`.

    References:
        Flow Matching for Generative Modeling (Lipman et al., 2023)
        https://arxiv.org/abs/2210.02747
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t.clone()
