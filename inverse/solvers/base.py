r"""Solvers: samples of a field given a measurement of it.

The loop down the levels exists once, in `mdm.chain`. A sequential solver says only what one step
does with the measurement. The cost of a solver is known before it runs, and counted while it runs.
"""

__all__ = ["Cost", "Run", "Sequential", "Solver", "guard", "unit"]

import abc
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from constraints import Given, InputError, Ranged, check_result
from mdm import DDIM, Denoiser, Level, Result, Transition, chain, descend

from ..operators.base import Operator
from .misfit import Misfit

State = TypeVar("State")


class Cost(NamedTuple):
    r"""The calls and vector-Jacobian products that a solver takes of the denoiser for a sample.
    A product costs about two calls."""

    calls: int
    vjps: int


class Solver(Ranged, nn.Module, abc.ABC):
    r"""Base of all solvers. Hyper-parameters belong to `__init__`, tensors to the call. A module,
    so that a constraint or a network inside follows the device."""

    @abc.abstractmethod
    def forward(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
        given: Given | None = None,
    ) -> Result:
        r"""Draws one field for each measurement.

        Arguments:
            denoiser: The prior.
            operator: The operator on the space of the prior.
            m: The measurements, with shape `(B, *M)`.
            shape: The shape `(C, *S)` of one field.
            seeds: One seed per measurement; a sample depends on its own seed and measurement
                alone.
            given: The data of each sample, for a constraint that needs them.
        """

    def prepare(self, denoiser: Denoiser, shape: Sequence[int]) -> "Solver":
        r"""Returns the solver after the work that all calls share, so that the work counts to none
        of them. The solver itself by default.

        Arguments:
            denoiser: The prior.
            shape: The shape `(C, *S)` of one field.
        """
        return self

    @abc.abstractmethod
    def cost(self, denoiser: Denoiser) -> Cost:
        r"""Returns the cost of a call in closed form: exactly, or an upper bound for a solver that
        may stop early.

        Arguments:
            denoiser: The prior.
        """


class Run:
    r"""Creates the facts of one call of a sequential solver.

    Arguments:
        denoiser: The prior.
        operator: The operator.
        m: The measurements, with shape `(B, *M)`.
        given: The data of each sample.

    Raises:
        InputError: If a measurement is not finite.
    """

    def __init__(
        self, denoiser: Denoiser, operator: Operator, m: Tensor, given: Given | None = None
    ) -> None:
        if not m.isfinite().all():
            raise InputError("A measurement is not finite: leave its numbers out with a Select.")
        self.denoiser, self.operator, self.m, self.given = denoiser, operator, m, given
        self.scale = torch.zeros(len(m), device=m.device)
        self.rejected = torch.zeros_like(self.scale, dtype=torch.long)
        self.guided = 0  # the number of guidances so far

    def pull(
        self, y_t: Tensor, t: Tensor, functional: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the denoised fields and the gradient, through the denoiser, of a functional of
        them: one call and one vector-Jacobian product.

        Arguments:
            y_t: The noisy fields, with shape `(B, C, *S)`.
            t: The time, with shape `()`.
            functional: The map from the denoised fields to one number per sample, `(B,)`.
        """
        with torch.enable_grad():
            y_t = y_t.detach().requires_grad_()
            y_hat = self.denoiser(y_t, t.to(y_t))
            (gradient,) = torch.autograd.grad(functional(y_hat).sum(), y_t)
        return y_hat.detach(), gradient

    def pull_back(
        self, y_t: Tensor, t: Tensor, direction: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the denoised fields, a direction at them, and the direction taken back through
        the denoiser: one call and one vector-Jacobian product.

        Arguments:
            y_t: The noisy fields, with shape `(B, C, *S)`.
            t: The time, with shape `()`.
            direction: The map from the denoised fields to the direction, each `(B, C, *S)`.
        """
        with torch.enable_grad():
            y_t = y_t.detach().requires_grad_()
            y_hat = self.denoiser(y_t, t.to(y_t))
            with torch.no_grad():
                d = direction(y_hat.detach())
            (gradient,) = torch.autograd.grad(y_hat, y_t, d)
        return y_hat.detach(), d, gradient

    def predict(self, y: Tensor) -> Tensor:
        r"""Returns the noiseless measurements of fields `(B, C, *S)`, with shape `(B, *M)`."""
        m_hat, _ = self.operator.predict(y, self.given)
        check_result(f"{type(self.operator).__name__}.predict(y)", m_hat, *self.m.shape)
        return m_hat

    def slope(self, y_t: Tensor, t: Tensor, loss: Misfit) -> tuple[Tensor, Tensor]:
        r"""Returns the denoised fields and the gradient of a loss, as `pull` does."""
        return self.pull(y_t, t, lambda y_hat: loss(self.operator, self.m, y_hat, self.given))

    def guard(self, move: Tensor, limit: float = 1e3) -> Tensor:
        r"""Returns the guidance with 0 for the samples for which it has blown up, as `guard`
        decides, and counts these samples."""
        move, self.scale, bad = guard(move, self.scale, limit)
        self.rejected, self.guided = self.rejected + bad, self.guided + 1
        return move


class Sequential(Solver, abc.ABC, Generic[State]):
    r"""Base of the solvers that go down a chain of transitions, each with a state of its own type,
    or with None.

    A guidance that is not finite, or more than 1000 times its own running scale, is left out for
    that sample at that level. The report counts it as `rejected`, of `guided` guidances in all. No
    sample is ever dropped.

    Arguments:
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(self, transition: Transition | None = None) -> None:
        super().__init__()
        self.transition = transition or DDIM()

    @abc.abstractmethod
    def step(self, run: Run, state: State, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`y_s`, and the same without the noise of the step.

        Arguments:
            run: The denoiser, the operator, the measurements, and the guard.
            state: The state that `begin` has returned.
            y_t: The noisy fields, with shape `(B, C, *S)`.
            level: The times, the coefficients of the transition, and its noise.
        """

    def begin(self, run: Run, shape: Sequence[int]) -> State:
        r"""Returns the state of a run, or refuses a denoiser or an operator that does not fit.

        Arguments:
            run: The run.
            shape: The shape `(C, *S)` of one field.
        """
        return cast(State, None)

    def finish(self, run: Run, y: Tensor) -> Tensor:
        r"""Returns the fields after the last step. The same fields by default."""
        return y

    def report(self, state: State) -> dict[str, Any]:
        r"""Returns the facts that a state adds to the report of the result. None by default."""
        return {}

    def cost(self, denoiser: Denoiser) -> Cost:
        r"""Returns one call and one product a step. A solver that spends otherwise overrides
        it."""
        steps = len(self.levels(denoiser))
        return Cost(steps, steps)

    def levels(self, denoiser: Denoiser) -> list[Level]:
        r"""Returns the levels of the chain, without seeds."""
        return list(descend(self.transition, denoiser.schedule, ()))

    def forward(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
        given: Given | None = None,
    ) -> Result:
        with torch.inference_mode(False), torch.no_grad():
            # a normal tensor, also where the caller is in inference mode
            check_result("The measurement m", m, len(seeds), None)
            run = Run(denoiser, operator, m.to(denoiser.template, copy=True), given)
            state = self.begin(run, shape)
            origin = None
            if self.transition.start < 1:
                level = next(descend(self.transition, denoiser.schedule, ()))
                origin = operator.guess(run.m, level.sigma_t / level.alpha_t)

            def advance(y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
                return self.step(run, state, y_t, level)

            result = chain(self.transition, denoiser, shape, seeds, advance, origin)
            mean = self.finish(run, result.y)
            y = mean if result.noisy is result.y else self.finish(run, result.noisy)
        counts = {"rejected": run.rejected.tolist(), "guided": run.guided}
        return Result(mean, y, {**self.report(state), **counts})


def unit(v: Tensor) -> Tensor:
    r"""Returns each field scaled to length 1.

    Arguments:
        v: The fields, with shape `(B, *)`.
    """
    norm: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return v / (norm.reshape(-1, *[1] * (v.ndim - 1)) + 1e-8)


def guard(move: Tensor, scale: Tensor, limit: float = 1e3) -> tuple[Tensor, Tensor, Tensor]:
    r"""Leaves out the guidance of samples for which it has blown up.

    Arguments:
        move: The guidance, with shape `(B, C, *S)`.
        scale: The running scale of its norm for each sample, with shape `(B,)`; 0 at the
            beginning.
        limit: How many times its scale a guidance may be; infinite where it is normalised.

    Returns:
        The guidance with 0 for those samples, the new scale, and which samples they are, `(B,)`.
    """
    norm = torch.linalg.vector_norm(move.flatten(1), dim=1).to(scale)
    finite, known = torch.isfinite(norm), scale > 0
    bad = ~finite | (known & (norm > limit * scale))
    mask = bad.reshape(-1, *[1] * (move.ndim - 1))
    # a norm above the limit counts as the limit, so that a guidance that stays large is let in
    counted = torch.where(bad, limit * scale, norm)
    fresh = torch.where(known, 0.9 * scale + 0.1 * counted, norm)
    return torch.where(mask, 0, move), torch.where(finite, fresh, scale), bad
