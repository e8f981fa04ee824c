r"""Pseudoinverse guidance, the conjugate one of which is integrated in a file of its own."""

__all__ = ["PiGDM", "Pseudoinverse", "Spectrum", "lifted_residual"]

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from constraints import InputError
from mdm import DDIM, Level, Transition

from ..linalg import damped_lift
from ..operators import SVD, Liftable, LinearOperator, Operator
from .base import Run, Sequential
from .conjugate import Weighting, carrier, euler_rate, integrated_rate, variance


class Spectrum:
    r"""Creates the singular directions of a linear operator in which the noise of its measurement
    is independent.

    Arguments:
        svd: The singular value decomposition.
        std: The std of the noise.
    """

    def __init__(self, svd: SVD, std: Tensor) -> None:
        self.svd = svd
        damping = (std.double() / svd.values.double()) ** 2
        self.shape = damping.shape
        # singular values that are the same share their coefficients
        self.damping, self.inverse = torch.unique(damping.cpu(), return_inverse=True)

    @classmethod
    def of(cls, operator: Operator) -> "Spectrum | None":
        r"""Returns the spectrum of an operator; none where it is not linear, where no cheap
        decomposition is known, or where the noise is not independent in its directions."""
        if not isinstance(operator, LinearOperator):
            return None
        svd, std = operator.svd(), operator.std
        if svd is None and not std.any():
            # without noise all directions are alike, and the projector is enough
            svd = SVD(torch.ones(()), operator.pinv, operator, _same, _same, diagonal=True)
        if svd is None or (std.numel() > 1 and not svd.diagonal):
            return None
        return cls(svd, std)

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        r"""Returns values, given for each distinct damping, for each direction."""
        return values[self.inverse].reshape(self.shape).to(like)


class Pseudoinverse(Sequential, abc.ABC):
    r"""Base of the solvers that know the pseudo-inverse of the operator, or of its tangent.

    Arguments:
        project: Whether the fields are projected onto :math:`A y = m` at the end.
        iterations: The largest number of conjugate gradients, where they are needed.
        transition: The transitions; 20 deterministic steps, `DDIM(20, eta=0)`, if missing.
    """

    def __init__(self, project: bool, iterations: int, transition: Transition | None) -> None:
        super().__init__(transition or DDIM(20, eta=0.0))
        self.project, self.iterations = project, iterations

    def begin(self, run: Run, shape: Sequence[int]) -> None:
        if self.project and not isinstance(run.operator, LinearOperator):
            raise InputError(
                f"project=True needs a linear operator, whose pseudo-inverse is known, got "
                f"{type(run.operator).__name__}: leave it out, or solve in data space with "
                "namm.IdentityMirror."
            )
        run.state["spectrum"] = Spectrum.of(run.operator)

    def finish(self, run: Run, y: Tensor) -> Tensor:
        if not self.project:
            return y
        operator = run.operator
        assert isinstance(operator, LinearOperator)  # or `begin` has refused it
        return y + operator.pinv(run.m - operator(y))


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
        weight: float = 1.0,
        weighting: Weighting = "pigdm",
        integrate: bool = False,
        project: bool = False,
        iterations: int = 10,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(project, iterations, transition)
        self.weight, self.weighting, self.integrate = weight, weighting, integrate

    def step(self, run: Run, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        schedule, spectrum = run.denoiser.schedule, run.state["spectrum"]
        damping = torch.zeros(1).double() if spectrum is None else spectrum.damping
        rate = integrated_rate if self.integrate else euler_rate
        gain = rate(schedule, self.weighting, self.weight, level.t, level.s, damping)

        def along(y_hat: Tensor) -> Tensor:
            if spectrum is None:
                d = float(gain) * lifted_residual(run, y_hat.detach(), level, self.iterations)
            else:
                svd = spectrum.svd
                z = svd.lift(run.m) - svd.vt(y_hat.detach())
                d = svd.v(spectrum.spread(gain, z) * z)
            return (y_hat * d).flatten(1).sum(dim=1)

        y_hat, gradient = run.pull(y_t, level.t, along)
        move = float(carrier(schedule, level.s)) * gradient
        return level.land(level.mean(y_hat, y_t) + run.guard(move))


@torch.no_grad()
def lifted_residual(run: Run, y_hat: Tensor, level: Level, iterations: int) -> Tensor:
    r"""Returns the residual of the denoised fields, lifted to fields, of an operator without a
    usable spectrum: :math:`A^+ m - A^+ A(\hat y)` where there is a pseudo-inverse and no noise,
    or a nonlinear operator has one; the damped lift elsewhere, whose largest relative residual is
    kept for each sample, and reported as `unsolved`.

    Arguments:
        run: The run.
        y_hat: The denoised fields, with shape `(B, C, *S)`.
        level: The level.
        iterations: The largest number of conjugate gradients.
    """
    operator = run.operator
    if isinstance(operator, Liftable) and not isinstance(operator, LinearOperator):
        return operator.pinv(run.m) - operator.pinv(operator(y_hat))
    r2 = float(variance(run.denoiser.schedule, level.t))
    lift, left = damped_lift(operator, run.m, y_hat, r2, iterations)
    run.unsolved = left if run.unsolved is None else torch.maximum(run.unsolved, left)
    return lift


def _same(z: Tensor) -> Tensor:
    return z
