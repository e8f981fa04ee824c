r"""Transitions: how a noisy field at time t becomes one at time s < t, given the denoised field.

All are Gaussian, :math:`y_s \sim \mathcal{N}(c_1 \hat y + c_2 y_t, \text{std}^2 I)`, and differ in
their grid of times and their coefficients. Unconditional samplers and guided solvers share them.
"""

__all__ = ["DDIM", "Ancestral", "Step", "Transition"]

import abc
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from constraints import InputError, OpenShare, PositiveInt, Range, Ranged, Share, check_range

from .schedule import Schedule, VPSchedule


class Step(NamedTuple):
    r"""The coefficients of one transition."""

    c1: float
    c2: float
    std: float


class Transition(Ranged, abc.ABC):
    r"""Base of all transitions. Its chain begins at the time `start`; below 1 a solver begins it
    with a first guess of the field, with noise."""

    start: float = 1.0

    @abc.abstractmethod
    def times(self, schedule: Schedule) -> Tensor:
        r"""Returns the times of the grid, descending to 0, float64, with shape `(steps + 1,)`.
        The denoiser is called at all but the last.

        Arguments:
            schedule: The schedule of the denoiser.
        """

    @abc.abstractmethod
    def step(self, schedule: Schedule, t: Tensor, s: Tensor) -> Step:
        r"""Returns the coefficients from time t to time s, both in the grid, as float64 scalars.

        Arguments:
            schedule: The schedule of the denoiser.
            t: The time now, with shape `()`.
            s: The next time, with shape `()`.
        """


class DDIM(Transition):
    r"""Creates the implicit transitions on a grid of times from `start` to 0, which end on the
    denoised field.

    .. math::
        y_s = \alpha_s \hat y + \sqrt{\sigma_s^2 - \text{std}^2}\, (y_t - \alpha_t \hat y) /
        \sigma_t + \text{std}\, \epsilon, \quad \text{std} = \eta \frac{\sigma_s}{\sigma_t}
        \sqrt{\sigma_t^2 - (\alpha_t \sigma_s / \alpha_s)^2}

    With :math:`\eta = 1` this is the posterior of the forward process, hence ancestral sampling;
    with :math:`\eta = 0` it is deterministic.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021)
        https://arxiv.org/abs/2010.02502

    Arguments:
        steps: The number of steps, which is the number of calls of the denoiser.
        eta: The share :math:`\eta` of the posterior std, in [0, 1].
        start: The first time, in (0, 1].
        end: The last time at which the denoiser is called. With it the grid is uniform in the log
            signal-to-noise ratio, from `start` to `end`, then 0; without it, uniform in time.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        steps: PositiveInt = 100,
        eta: Share = 1.0,
        start: Annotated[float, Range("(0, 1]")] = 1.0,
        end: OpenShare | None = None,
    ) -> None:
        if end is not None:
            check_range(self, "[2, inf)", steps=steps)
            check_range(self, f"(0, {start})", end=end)
        self.steps, self.eta, self.start, self.end = steps, eta, start, end

    def times(self, schedule: Schedule) -> Tensor:
        if self.end is None:
            return torch.linspace(self.start, 0, self.steps + 1, dtype=torch.float64)
        grid = schedule.log_uniform(self.start, self.end, self.steps)
        return torch.cat([grid, grid.new_zeros(1)])

    def step(self, schedule: Schedule, t: Tensor, s: Tensor) -> Step:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        # the variance of y_t given y_s is sigma_t² - (alpha_t / alpha_s)² sigma_s²
        ahead = (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).clamp(min=0)
        std = self.eta * sigma_s / sigma_t * ahead.sqrt()
        c2 = (sigma_s**2 - std**2).clamp(min=0).sqrt() / sigma_t
        return Step(float(alpha_s - c2 * alpha_t), float(c2), float(std))


class Ancestral(Transition):
    r"""Creates the transitions of the published samplers: the discrete chain of 1000 rates from
    1e-4 to 2e-2, called at times from 1 to 1e-3, with the posterior mean, the variance
    :math:`\beta_i`, and noise of std 0.0074 in the very last step. The chain belongs to a
    `VPSchedule()`; other schedules are refused.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        https://arxiv.org/abs/2006.11239
    """

    steps = 1000

    def __init__(self) -> None:
        self.beta = torch.linspace(1e-4, 2e-2, self.steps, dtype=torch.float64)
        self.kept = torch.cumprod(1 - self.beta, dim=0)

    def times(self, schedule: Schedule) -> Tensor:
        if not isinstance(schedule, VPSchedule) or vars(schedule) != vars(VPSchedule()):
            rates = ", ".join(f"{name}={value:g}" for name, value in vars(schedule).items())
            raise InputError(
                f"Ancestral is the published chain of VPSchedule(), got "
                f"{type(schedule).__name__}({rates}): use mdm.DDIM, which follows every schedule."
            )
        called = torch.linspace(1, 1e-3, self.steps, dtype=torch.float64)
        return torch.cat([called, called.new_zeros(1)])

    def step(self, schedule: Schedule, t: Tensor, s: Tensor) -> Step:
        del schedule, s  # the chain is its own schedule
        i = int((self.steps - 1) * float(t))
        beta, kept = self.beta[i], self.kept[i]
        before = self.kept[i - 1] if i else torch.ones_like(kept)
        last = self.beta[1] * (1 - self.kept[0]) / (1 - self.kept[1])
        variance = beta if i else last
        c1 = beta * before.sqrt() / (1 - kept)
        c2 = (1 - before) * (1 - beta).sqrt() / (1 - kept)
        return Step(float(c1), float(c2), float(variance.sqrt()))
