r"""Conjugate pseudoinverse guidance: few steps, however strong the guidance."""

__all__ = ["CPiGDM"]

from torch import Tensor

from constraints import NonNegativeFloat, PositiveInt, Real
from mdm import Level, Transition

from .base import Run
from .conjugate import Weighting, carrier, increments, variance
from .pseudoinverse import Pseudoinverse, PseudoinverseState


class CPiGDM(Pseudoinverse):
    r"""Creates the conjugate integrator of pseudoinverse guidance, in gain form: a step on a clean
    field that has moved towards the measurement by a fraction :math:`1 - \rho_i`
    in each singular direction, and for the Jacobian of the network,

    .. math::
        x_s = c_s \left( \hat x + (1 - \rho_i) (A^+ m - \hat x)_i + j_i g \right) + \sigma_s
        \varphi.

    For a diffusion the predicted noise is frozen over a step, for a flow the velocity
    (C-PiGFM). Noise in the measurement is exact in each singular direction. Where these are not
    known, the gain is common to all: for an operator with a pseudo-inverse that is not linear, as
    a codec, and for the damped tangent of others, as a `Pullback` to mirror space.

    References:
        Fast Samplers for Inverse Problems in Iterative Refinement Models (Pandey et al., 2024)
        https://arxiv.org/abs/2405.17673

    Arguments:
        weight: The weight w.
        weighting: How the weight varies with time, as in `PiGDM`.
        lam: The scalar :math:`\lambda` of the transform, which changes the discretisation alone.
        project: Whether the fields are projected onto :math:`A y = m` at the end.
        iterations: The largest number of conjugate gradients, where they are needed.
        transition: The transitions; 20 deterministic steps, `DDIM(20, eta=0)`, if missing. The
            start time of the papers, counted from the noise, is one minus its `start`. Others
            with noise move the same clean field; then the limit of many steps is no longer the
            probability flow.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        weighting: Weighting = "conjugate",
        lam: Real = 0.0,
        project: bool = False,
        iterations: PositiveInt = 10,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(project, iterations, transition)
        self.weight, self.weighting, self.lam = weight, weighting, lam

    def step(
        self, run: Run, state: PseudoinverseState, y_t: Tensor, level: Level
    ) -> tuple[Tensor, Tensor]:
        schedule, directions = run.denoiser.schedule, state.directions
        options = (self.weighting, self.weight, self.lam, level.t, level.s)
        measured, other = increments(schedule, *options, state.damping)
        c_t, c_s = (float(carrier(schedule, v)) for v in (level.t, level.s))

        def direction(y_hat: Tensor) -> Tensor:
            if directions is None:
                return self.correction(run, state, y_hat, level)
            r2 = variance(schedule, level.t)
            z = directions.svd.coefficients(run.m) - directions.svd.vt(y_hat)
            return directions.svd.v(directions.gains(r2 / (r2 + state.damping), z) * z)

        y_hat, d, gradient = run.pull_back(y_t, level.t, direction)
        frozen = (y_t - c_t * y_hat) / level.sigma_t
        g = (d - c_t * gradient) / level.sigma_t
        if directions is None:
            move = float(measured.pinv) * d + float(measured.jacobian) * g
        else:
            svd, target = directions.svd, directions.svd.coefficients(run.m)
            z = directions.gains(measured.pinv, target) * target
            for field, ours, others in (
                (y_hat, measured.clean, other.clean),
                (frozen, measured.frozen, other.frozen),
                (g, measured.jacobian, other.jacobian),
            ):
                z = z + directions.gains(ours - others, target) * svd.vt(field)
            move = svd.v(z) + float(other.jacobian) * g
        # the change of the free step by λ: nothing where λ is 0
        a_s = level.sigma_s / c_s
        drift = (float(other.clean) - 1) * y_hat + (float(other.frozen) - a_s) * frozen
        return level.land(level.mean(y_hat, y_t) + c_s * (drift + run.guard(move)))
