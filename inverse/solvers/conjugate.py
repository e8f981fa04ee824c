r"""The linear part of a guided probability flow over one step, integrated exactly.

With the residual :math:`d = A^+ m - P \hat x` (for noise, weighted by :math:`p_i`) and the assumed
variance :math:`r_t^2 = \sigma_t^2 / (\alpha_t^2 + \sigma_t^2)` of the clean field, PiGDM adds
:math:`w_t r_t^{-2} J^T d` to the score, J being the Jacobian of the denoised field. Write
:math:`w_t = w\, \omega_t r_t^2 \alpha_t^2`. Three weightings are in use:

- `conjugate`, :math:`\omega = 1`: C-PiGDM and C-PiGFM;
- `pigdm`, :math:`\omega = 1 / \alpha^2`: PiGDM for diffusions;
- `bayes`, :math:`\omega = 1 / (r^2 \alpha^2)`: w = 1 is Bayes' rule for a clean field of that
  variance, and PiGDM for flows.

The flow is linear in the noisy field but for the network. A step freezes the predicted noise for
a diffusion, :math:`\varphi = (x_t - \alpha_t \hat x) / \sigma_t` and
:math:`x_t = c\,(\hat x + a \varphi)` with :math:`c = \alpha`, :math:`a = \sigma / \alpha`; for a
straight flow it freezes the velocity, :math:`\varphi = (x_t - \hat x) / \sigma_t`, :math:`c = 1`,
:math:`a = \sigma`. In both cases :math:`c J^T d = d - \sigma\, g`, :math:`g = (\partial \varphi /
\partial x)^T d`, and a clean field relaxes towards the measurement at the rate

.. math:: k = w\, \omega\, \frac{\alpha \sigma}{c^2} (\dot\sigma \alpha - \sigma \dot\alpha)\,
    \frac{r^2}{r^2 + \text{std}^2 / s_i^2}

in the direction of singular value :math:`s_i`. So a step moves it by the fraction
:math:`1 - \rho`, :math:`\rho = \exp(-\int k)`, never beyond the measurement, however long the
step.

References:
    Fast Samplers for Inverse Problems in Iterative Refinement Models (Pandey et al., 2024)
    https://arxiv.org/abs/2405.17673

    Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023)
    https://openreview.net/forum?id=9_gsMA8MRKQ
"""

__all__ = [
    "Increments",
    "Weighting",
    "carrier",
    "euler_rate",
    "guidance_rate",
    "increments",
    "integrated_rate",
]

import math
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from constraints import InputError
from mdm import FlowSchedule, Schedule

Weighting = Literal["bayes", "pigdm", "conjugate"]


class Increments(NamedTuple):
    r"""One step of the transformed flow in a direction, as coefficients of the next
    :math:`x_s / c_s`.

    Arguments:
        clean: The coefficient of the denoised field.
        pinv: The coefficient of the pseudo-inverse of the measurement, :math:`A^+ m`.
        frozen: The coefficient of :math:`\varphi`.
        jacobian: The coefficient of g.
    """

    clean: Tensor
    pinv: Tensor
    frozen: Tensor
    jacobian: Tensor


def carrier(schedule: Schedule, t: Tensor) -> Tensor:
    r"""Returns c at times `(*)`: the signal scale, or 1 for a straight flow."""
    return torch.ones_like(t) if isinstance(schedule, FlowSchedule) else schedule(t)[0]


def guidance_rate(schedule: Schedule, weighting: Weighting, w: float, t: Tensor) -> Tensor:
    r"""Returns the rate in time at which :math:`J^T d` enters :math:`x_t / c` without noise in the
    measurement, :math:`\alpha \sigma w_t r_t^{-2} / c\; d(\sigma / \alpha) / dt`.

    Arguments:
        schedule: The schedule of the denoiser.
        weighting: The weighting.
        w: The weight.
        t: The times in (0, 1], float64 with shape `(*)`.
    """
    alpha, sigma = schedule(t)
    alpha_slope, sigma_slope = schedule.slopes(t)
    rate = w * sigma * (sigma_slope * alpha - sigma * alpha_slope)
    if weighting == "pigdm":
        rate = rate / alpha**2
    elif weighting == "bayes":
        rate = rate / (alpha**2 * variance(schedule, t))
    return rate * alpha / carrier(schedule, t)


def variance(schedule: Schedule, t: Tensor) -> Tensor:
    r"""Returns the assumed variance :math:`r_t^2` of the clean field at times `(*)`."""
    alpha, sigma = schedule(t)
    return sigma**2 / (alpha**2 + sigma**2)


def euler_rate(
    schedule: Schedule, weighting: Weighting, w: float, t: Tensor, s: Tensor, damping: Tensor
) -> Tensor:
    r"""Returns the guidance rate at the beginning of a step times its length, for each singular
    value. `integrated_rate` takes the same arguments."""
    _check_finite(schedule, weighting, w, t, s)
    r2 = variance(schedule, t)
    return guidance_rate(schedule, weighting, w, t) * (t - s) * r2 / (r2 + damping)


def integrated_rate(
    schedule: Schedule, weighting: Weighting, w: float, t: Tensor, s: Tensor, damping: Tensor
) -> Tensor:
    r"""Returns the integral over a step of the guidance rate, for each singular value.

    Arguments:
        schedule: The schedule of the denoiser.
        weighting: The weighting.
        w: The weight.
        t: The time now, float64 with shape `()`.
        s: The next time, float64 with shape `()`.
        damping: The variances :math:`\text{std}^2 / s_i^2`, with shape `(r,)`.

    Returns:
        The integrals, with shape `(r,)`.

    Raises:
        InputError: If the integral diverges.
    """
    _check_finite(schedule, weighting, w, t, s)
    if weighting == "bayes" and s == 0 and damping.min() == 0:
        raise InputError(
            "The integral of the weighting 'bayes' diverges at time 0, unless the measurement has "
            "noise that is known in each singular direction: use another weighting, Euler's rule "
            "(integrate=False), or CPiGDM."
        )
    u, width, _ = _nodes(t, s)
    rate = guidance_rate(schedule, weighting, w, u) * _share(variance(schedule, u), damping)
    return (width * rate).sum(dim=(1, 2))


def increments(
    schedule: Schedule,
    weighting: Weighting,
    w: float,
    lam: float,
    t: Tensor,
    s: Tensor,
    damping: Tensor,
) -> tuple[Increments, Increments]:
    r"""Returns the increments of a step for each singular value, and for the directions that are
    not measured.

    The scalar :math:`\lambda` of the transform cancels in continuous time. In a step the carried
    state is integrated by Euler's rule while the increments are exact, which is where it acts.

    Arguments:
        schedule: The schedule of the denoiser.
        weighting: The weighting.
        w: The weight.
        lam: The scalar :math:`\lambda`.
        t: The time now, float64 with shape `()`.
        s: The next time, float64 with shape `()`.
        damping: The variances :math:`\text{std}^2 / s_i^2`, with shape `(r,)`.

    Returns:
        The increments of the measured directions, each with shape `(r,)`, and of the others, `()`.
    """
    _check_finite(schedule, weighting, w, t, s)
    u, width, integrate = _nodes(t, s)
    sigma, c = schedule(u)[1], carrier(schedule, u)
    base = guidance_rate(schedule, weighting, w, u) / c
    rate = base * _share(variance(schedule, u), damping)
    # the decay E(u) from u down to s, first within the panel of u and then over those below
    below = (width * rate).sum(dim=2)
    passed = below.flip(1).cumsum(1).flip(1) - below
    decay = torch.exp(-passed[:, :, None] - torch.einsum("rpi,pji->rpj", rate, integrate))
    rho = torch.exp(-below.sum(dim=1))

    # λ counts time along the noise for diffusions, along the signal for flows
    lam = lam if isinstance(schedule, FlowSchedule) else -lam
    growth = torch.exp(-lam * (u - s))
    first, last = math.exp(-lam * float(t - s)), (1 + lam * float(t - s))
    carry = last * first
    a = sigma / c
    (a_t, a_s), flat = (schedule(v)[1] / carrier(schedule, v) for v in (t, s)), width * growth

    def frozen(decay: Tensor, rho: Tensor) -> Tensor:
        drift = -lam * (flat * decay * a).sum(dim=(-2, -1)) if lam else 0.0
        return a_s + (carry - first) * rho * a_t + drift

    one = torch.ones_like(t)
    pinv = 1 - rho if lam == 0 else (flat * decay * rate).sum(dim=(1, 2))
    measured = Increments(
        carry * rho, pinv, frozen(decay, rho), -(flat * decay * base * sigma).sum(dim=(1, 2))
    )
    other = Increments(
        carry * one,
        0 * one,
        frozen(torch.ones_like(a), one) * one,
        -(flat * base * sigma).sum(),
    )
    return measured, other


def _share(r2: Tensor, damping: Tensor) -> Tensor:
    return r2 / (r2 + damping.reshape(-1, 1, 1))


def _check_finite(
    schedule: Schedule, weighting: Weighting, w: float, t: Tensor, s: Tensor
) -> None:
    # nodes lie inside a step, where even a divergent integral looks finite
    if not torch.isfinite(guidance_rate(schedule, weighting, w, t)):
        raise InputError(
            f"The guidance of the weighting '{weighting}' is infinite over the step from "
            f"{float(t):g} to {float(s):g}: use the weighting 'conjugate', or start below 1."
        )


PANELS, NODES = 10, 16


def _nodes(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns Gauss-Legendre nodes in the square root of time on panels that halve towards s,
    where the decay lives and noise levels are singular, the first panel being the latest: times
    and weights, with shape `(panels, nodes)`, and matrices that integrate from the lower end of a
    panel to each of its nodes, with shape `(panels, nodes, nodes)`."""
    x, weight, matrix = _legendre(NODES)
    root_s, root_t = s.sqrt(), t.sqrt()
    edges = root_s + (root_t - root_s) * 0.5 ** torch.arange(PANELS + 1, dtype=torch.float64)
    edges = torch.cat([edges[:-1], root_s[None]])
    radius = ((edges[:-1] - edges[1:]) / 2)[:, None]
    v = edges[1:, None] + radius * (1 + x)
    slope = 2 * v * radius  # of the time in the node
    return v**2, slope * weight, matrix * slope[:, None, :]


@cache
def _legendre(n: int) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = np.polynomial.legendre.leggauss(n)
    basis = np.polynomial.legendre.legvander(x, n - 1)
    # integrals of the Legendre polynomials from -1: (P_{k+1} - P_{k-1}) / (2k + 1), or x + 1
    higher = np.polynomial.legendre.legvander(x, n)
    integral = np.empty_like(basis)
    integral[:, 0] = x + 1
    for k in range(1, n):
        integral[:, k] = (higher[:, k + 1] - higher[:, k - 1]) / (2 * k + 1)
    matrix = integral @ np.linalg.inv(basis)
    return torch.from_numpy(x), torch.from_numpy(weight), torch.from_numpy(matrix)
