r"""Pseudoinverse guidance by one vector-Jacobian product a step."""

__all__ = ["PiGDM"]

from torch import Tensor

from constraints import NonNegativeFloat, PositiveInt
from mdm import Level, Transition

from .base import Run
from .conjugate import Weighting, carrier, euler_rate, integrated_rate
from .pseudoinverse import Pseudoinverse, PseudoinverseState


class PiGDM(Pseudoinverse):
    r"""Creates pseudoinverse guidance of the probability flow: the score gains

    .. math:: w_t J^T A^T (r_t^2 A A^T + \text{std}^2)^{-1} (m - A \hat y), \quad
        r_t^2 = \frac{\sigma_t^2}{\alpha_t^2 + \sigma_t^2},

    with the Jacobian J of the denoised field, by one vector-Jacobian product. Without noise this
    is :math:`w_t r_t^{-2} J^T (A^+ m - P \hat y)`. Where the singular values are known the inverse
    is exact, elsewhere by conjugate gradients; of a nonlinear operator, as a `Pullback`, the
    tangent at :math:`\hat y` is taken.

    References:
        Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023)
        https://openreview.net/forum?id=9_gsMA8MRKQ

        Training-free Linear Image Inverses via Flows (Pokle et al., 2024)
        https://arxiv.org/abs/2310.04432

    Arguments:
        weight: The weight w.
        weighting: How the weight varies with time: `pigdm`, :math:`w_t = w r_t^2`; `conjugate`,
            :math:`w_t = w r_t^2 \alpha_t^2`; `bayes`, :math:`w_t = w`, which is Bayes' rule at
            w = 1, and the published choice for flows.
        integrate: Whether the guidance is integrated over a step, instead of by Euler's rule.
        project: Whether the fields are projected onto :math:`A y = m` at the end.
        iterations: The largest number of conjugate gradients, where they are needed.
        transition: The transitions; 20 deterministic steps, `DDIM(20, eta=0)`, if missing.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        weighting: Weighting = "pigdm",
        integrate: bool = False,
        project: bool = False,
        iterations: PositiveInt = 10,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(project, iterations, transition)
        self.weight, self.weighting, self.integrate = weight, weighting, integrate

    def step(
        self, run: Run, state: PseudoinverseState, y_t: Tensor, level: Level
    ) -> tuple[Tensor, Tensor]:
        schedule, directions = run.denoiser.schedule, state.directions
        rate = integrated_rate if self.integrate else euler_rate
        gain = rate(schedule, self.weighting, self.weight, level.t, level.s, state.damping)

        def direction(y_hat: Tensor) -> Tensor:
            if directions is None:
                return float(gain) * self.correction(run, state, y_hat, level)
            z = directions.svd.coefficients(run.m) - directions.svd.vt(y_hat)
            return directions.svd.v(directions.gains(gain, z) * z)

        y_hat, _, gradient = run.pull_back(y_t, level.t, direction)
        move = float(carrier(schedule, level.s)) * gradient
        return level.land(level.mean(y_hat, y_t) + run.guard(move))
