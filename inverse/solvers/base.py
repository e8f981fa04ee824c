r"""Solvers: samples of a field given a measurement of it.

The loop down the levels exists once, in `mdm.chain`; a solver of that kind says only what one step
does with the measurement. What a solver costs is known before it runs, and counted while it does.
"""

__all__ = ["Cost", "Run", "Sequential", "Solver", "guard", "misfit", "unit"]

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from constraints import Constraint
from mdm import DDIM, Denoiser, Level, Result, Transition, chain, descend

from ..operators import Operator


class Cost(NamedTuple):
    r"""What a solver spends on the denoiser for each sample: calls, and vector-Jacobian products.
    A product costs about two calls."""

    calls: int
    vjps: int


class Solver(nn.Module, abc.ABC):
    r"""Base of all solvers. Hyper-parameters belong to `__init__`, tensors to the call. A module,
    so that a constraint or a network inside follows the device."""

    @abc.abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
    ) -> Result:
        r"""Draws one field for each measurement.

        Arguments:
            denoiser: The prior.
            operator: The operator on the space of the prior.
            m: The measurements, with shape `(B, *M)`.
            shape: The shape `(C, *S)` of one field.
            seeds: One seed per measurement; a sample depends on its own seed and measurement
                alone.
        """

    def prepare(self, denoiser: Denoiser, shape: Sequence[int]) -> None:
        r"""Does once what all calls share, so that it counts to none of them. Nothing by default;
        a call does what is still to be done.

        Arguments:
            denoiser: The prior.
            shape: The shape `(C, *S)` of one field.
        """

    @abc.abstractmethod
    def cost(self, denoiser: Denoiser) -> Cost:
        r"""Returns what a call spends on the denoiser, in closed form: exactly, or for a solver
        that may stop early at most.

        Arguments:
            denoiser: The prior.
        """


class Run:
    r"""Creates the state of one call of a sequential solver.

    Arguments:
        denoiser: The prior.
        operator: The operator.
        m: The measurements, with shape `(B, *M)`.
    """

    def __init__(self, denoiser: Denoiser, operator: Operator, m: Tensor) -> None:
        self.denoiser, self.operator, self.m = denoiser, operator, m
        self.scale = torch.zeros(len(m), device=m.device)
        self.rejected = torch.zeros_like(self.scale, dtype=torch.long)
        self.unsolved: Tensor | None = None  # what conjugate gradients left of their system
        self.facts: dict[str, Any] = {}  # of the report
        self.state: dict[str, Any] = {}  # what a solver keeps from `begin` to the end

    def pull(
        self, y_t: Tensor, t: Tensor, functional: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the denoised fields and the gradient, through the denoiser, of a functional of
        them: one call and one vector-Jacobian product.

        Arguments:
            y_t: The noisy fields, with shape `(B, C, *S)`.
            t: The time, with shape `()`.
            functional: From the denoised fields to one number per sample, with shape `(B,)`.
        """
        with torch.enable_grad():
            y_t = y_t.detach().requires_grad_()
            y_hat = self.denoiser(y_t, t.to(y_t))
            (gradient,) = torch.autograd.grad(functional(y_hat).sum(), y_t)
        return y_hat.detach(), gradient

    def guard(self, move: Tensor, limit: float = 1e3) -> Tensor:
        r"""Returns a guidance without that of the samples for which it has blown up, as `guard`
        decides, and counts them."""
        move, self.scale, bad = guard(move, self.scale, limit)
        self.rejected = self.rejected + bad
        return move


class Sequential(Solver, abc.ABC):
    r"""Base of the solvers that go down a chain of transitions.

    A guidance that is not finite, or more than 1000 times its own running scale, is left out for
    that sample at that level, and counted in the report as `rejected`; no sample is ever dropped.

    Arguments:
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(self, transition: Transition | None = None) -> None:
        super().__init__()
        self.transition = transition or DDIM()

    @abc.abstractmethod
    def step(self, run: Run, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`y_s`, and the same without the noise of the step.

        Arguments:
            run: The denoiser, the operator, the measurements, and the guard.
            y_t: The noisy fields, with shape `(B, C, *S)`.
            level: The times, the coefficients of the transition, and its noise.
        """

    def begin(self, run: Run, shape: Sequence[int]) -> None:
        r"""Prepares a run, or refuses a denoiser or an operator that do not fit. Nothing by
        default.

        Arguments:
            run: The run.
            shape: The shape `(C, *S)` of one field.
        """

    def finish(self, run: Run, y: Tensor) -> Tensor:
        r"""Returns what becomes of the fields after the last step. Nothing by default."""
        return y

    def cost(self, denoiser: Denoiser) -> Cost:
        r"""Returns the cost of one call and one product a step; a step that spends otherwise says
        so itself."""
        steps = len(self.levels(denoiser))
        return Cost(steps, steps)

    def levels(self, denoiser: Denoiser) -> list[Level]:
        r"""Returns the levels of the chain, without seeds."""
        return list(descend(self.transition, denoiser.schedule, ()))

    def __call__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
    ) -> Result:
        with torch.inference_mode(False), torch.no_grad():
            # a normal tensor, also where the caller is in inference mode
            run = Run(denoiser, operator, m.to(denoiser.like, copy=True))
            self.begin(run, shape)
            origin = None
            if self.transition.start < 1:
                first = next(descend(self.transition, denoiser.schedule, ()))
                origin = operator.lift(run.m, first.sigma_t / first.alpha_t)

            def advance(y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
                return self.step(run, y_t, level)

            result = chain(self.transition, denoiser, shape, seeds, advance, origin)
            mean = self.finish(run, result.y)
            y = mean if result.noisy is result.y else self.finish(run, result.noisy)
        facts = run.facts | {"rejected": run.rejected.tolist()}
        facts |= {} if run.unsolved is None else {"unsolved": run.unsolved.tolist()}
        return Result(mean, y, facts)


def misfit(
    operator: Operator,
    m: Tensor,
    y_hat: Tensor,
    constraint: Constraint | None = None,
    weight: float = 1.0,
    whiten: bool = True,
    power: int = 1,
) -> Tensor:
    r"""Returns the loss that guides the solvers without a likelihood of their own,

    .. math:: \tfrac1p \| (m - A(\hat y)) / \text{std} \|_2^p + w\, \ell(\hat x),

    with the norm of each sample's own misfit and the field :math:`\hat x` in data space that
    belongs to :math:`\hat y`. The gradient of the norm (p = 1) keeps its length as the misfit
    shrinks, that of its square (p = 2) is the one of a Gaussian likelihood.

    Arguments:
        operator: The operator.
        m: The measurements, with shape `(B, *M)`.
        y_hat: The denoised fields, with shape `(B, C, *S)`.
        constraint: The constraint that also guides, if any.
        weight: The weight w of its distance.
        whiten: Whether the misfit is divided by the std, where that is not 0.
        power: The power p, 1 or 2.

    Returns:
        The losses, with shape `(B,)`.
    """
    residual = m - operator(y_hat)
    if whiten:
        residual = residual / torch.where(operator.std > 0, operator.std, 1)
    if power == 2:
        loss = residual.square().flatten(1).sum(dim=1) / 2
    else:
        loss = torch.linalg.vector_norm(residual.flatten(1), dim=1)
    if constraint is not None:
        loss = loss + weight * constraint(operator.field(y_hat))
    return loss


def unit(v: Tensor) -> Tensor:
    r"""Returns each field scaled to length 1.

    Arguments:
        v: The fields, with shape `(B, *)`.
    """
    norm = torch.linalg.vector_norm(v.flatten(1), dim=1).reshape(-1, *[1] * (v.ndim - 1))
    return v / (norm + 1e-8)


def guard(move: Tensor, scale: Tensor, limit: float = 1e3) -> tuple[Tensor, Tensor, Tensor]:
    r"""Leaves out the guidance of samples for which it has blown up.

    Arguments:
        move: The guidance, with shape `(B, C, *S)`.
        scale: The running scale of its norm for each sample, 0 before the first, with shape
            `(B,)`.
        limit: How many times its scale a guidance may be; infinite where it is normalised.

    Returns:
        The guidance with those samples at 0, the new scale, and which samples they are, `(B,)`.
    """
    norm = torch.linalg.vector_norm(move.flatten(1), dim=1).to(scale)
    finite, known = torch.isfinite(norm), scale > 0
    bad = ~finite | (known & (norm > limit * scale))
    mask = bad.reshape(-1, *[1] * (move.ndim - 1))
    # what is too large counts as just allowed, so that a guidance that stays large is let in again
    counted = torch.where(bad, limit * scale, norm)
    fresh = torch.where(known, 0.9 * scale + 0.1 * counted, norm)
    return torch.where(mask, 0, move), torch.where(finite, fresh, scale), bad
