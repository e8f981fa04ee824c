r"""Trust sampling: several short gradient steps at each level, as far as they can be trusted."""

__all__ = ["Bound", "Trust"]

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from constraints import (
    Constraint,
    InputError,
    NonNegativeFloat,
    PositiveInt,
    Range,
    check_arguments,
    derive_seed,
)
from mdm import Denoiser, Level, Transition, chain

from .base import Cost, Run, Sequential
from .budget import ConstantBudget, TrustBudget
from .misfit import Misfit


@dataclass(frozen=True)
class Bound:
    r"""The bound of `Trust` that is estimated: at each level, a quantile of the norm of the
    predicted noise at the mean of the next state, in unguided runs of the same chain.

    Arguments:
        quantile: The quantile, in (0, 1].
        samples: The number of unguided samples.
    """

    quantile: Annotated[float, Range("(0, 1]")]
    samples: PositiveInt = 64

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))

    @torch.no_grad()
    def estimate(
        self, transition: Transition, denoiser: Denoiser, shape: Sequence[int]
    ) -> list[float]:
        r"""Returns the bound of each level, for two calls of the denoiser a level.

        Arguments:
            transition: The transitions.
            denoiser: The prior.
            shape: The shape `(C, *S)` of one field.
        """
        bounds = []

        def advance(y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
            mean = level.mean(denoiser(y_t, level.t.to(y_t)), y_t)
            norm = _noise_norm(mean, denoiser(mean, level.t.to(mean)), level)
            bounds.append(float(torch.quantile(norm.double(), self.quantile)))
            return level.land(mean)

        seeds = [derive_seed("trust", i) for i in range(self.samples)]
        chain(transition, denoiser, shape, seeds, advance)
        return bounds


@dataclass
class TrustState:
    r"""The state of a run of `Trust`.

    Arguments:
        inner_steps: The largest number of gradient steps at each level.
        bounds: The bound at each level.
        accepted: The gradient steps that each sample has taken, with shape `(B,)`.
        needed: The calls of the denoiser that each sample needs by itself, with shape `(B,)`. A
            batch goes on as long as one of its samples does.
    """

    inner_steps: list[int]
    bounds: list[float]
    accepted: Tensor
    needed: Tensor


class Trust(Sequential[TrustState]):
    r"""Creates trust sampling. At each level but the last, the mean of the next state descends the
    misfit of its own denoised field by normalised steps,

    .. math:: y \leftarrow y - w \frac{G(y)}{\|G(y)\| + 10^{-6}}, \quad
        G(y) = \nabla_y L(\hat y(y, t)),

    with the loss L of a `Misfit`. There are as many steps as the budget :math:`J_t` allows, as
    long as the norm of the predicted noise :math:`(y - \alpha_t \hat y) / \sigma_t` is within a
    bound. The bound is tested for each sample; a sample that fails stays where it is until the
    next level. Then the noise of the transition is added. The product :math:`J_t w` is the radius
    within which the level is trusted.

    In few dimensions the norm does not concentrate, and a bound stops ordinary samples.

    References:
        Constrained Diffusion with Trust Sampling (Huang et al., 2024)
        https://arxiv.org/abs/2411.10932

    Arguments:
        budget: The number of steps at each level; 4 at each if missing.
        step_size: The length w of a step, in field units; in papers also quoted as
            :math:`w / \sqrt{n}` for fields of n entries.
        bound: The largest norm of the predicted noise: a number, one number per level, or a
            `Bound`, which is estimated once by `prepare`, or in each call; none if missing.
        constraint: The constraint that also guides, if any.
        weight: The weight of the distance to the constraint.
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(
        self,
        budget: TrustBudget | None = None,
        step_size: NonNegativeFloat = 0.1,
        bound: NonNegativeFloat | list[NonNegativeFloat] | Bound | None = None,
        constraint: Constraint | None = None,
        weight: NonNegativeFloat = 200.0,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(transition)
        if isinstance(bound, Bound) and self.transition.start < 1:
            raise InputError(
                "A Bound is estimated in runs from noise alone, got a transition that starts at "
                f"{self.transition.start:g}: give numbers, or a start of 1."
            )
        self.budget, self.bound = budget or ConstantBudget(), bound
        self.step_size, self.loss = step_size, Misfit(constraint, weight)

    def prepare(self, denoiser: Denoiser, shape: Sequence[int]) -> "Trust":
        if not isinstance(self.bound, Bound):
            return self
        solver = copy.copy(self)
        solver.bound = self.bound.estimate(self.transition, denoiser, shape)
        return solver

    def begin(self, run: Run, shape: Sequence[int]) -> TrustState:
        levels, bound = self.levels(run.denoiser), self.bound
        if isinstance(bound, Bound):
            bound = bound.estimate(self.transition, run.denoiser, shape)
        elif not isinstance(bound, list):
            bound = [math.inf if bound is None else bound] * len(levels)
        if len(bound) != len(levels):
            raise InputError(f"Trust expects {len(levels)} bounds, got {len(bound)}.")
        inner_steps = self.budget.steps(levels, run.denoiser.schedule)
        zeros = torch.zeros_like(run.rejected)
        return TrustState(inner_steps, bound, zeros, zeros + len(levels))

    def step(
        self, run: Run, state: TrustState, y_t: Tensor, level: Level
    ) -> tuple[Tensor, Tensor]:
        y = level.mean(run.denoiser(y_t, level.t.to(y_t)), y_t)
        if level.s == 0:
            return level.land(y)
        active = torch.ones(len(y), dtype=torch.bool, device=y.device)
        for _ in range(state.inner_steps[level.k]):
            y_hat, gradient = run.slope(y, level.t, self.loss)
            state.needed = state.needed + active
            active = active & (_noise_norm(y, y_hat, level) <= state.bounds[level.k])
            if not active.any():
                break
            gradient = run.guard(gradient, limit=math.inf)
            length = torch.linalg.vector_norm(gradient.flatten(1), dim=1) + 1e-6
            scale = self.step_size * active / length
            y = y - scale.reshape(-1, *[1] * (y.ndim - 1)) * gradient
            state.accepted = state.accepted + active
        return level.land(y)

    def report(self, state: TrustState) -> dict[str, Any]:
        report = vars(state)
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in report.items()}

    def cost(self, denoiser: Denoiser) -> Cost:
        levels = self.levels(denoiser)
        inner = sum(self.budget.steps(levels, denoiser.schedule))
        estimate = 2 * len(levels) if isinstance(self.bound, Bound) else 0
        return Cost(len(levels) + inner + estimate, inner)


def _noise_norm(y: Tensor, y_hat: Tensor, level: Level) -> Tensor:
    eps = (y - level.alpha_t * y_hat) / level.sigma_t
    norm: Tensor = torch.linalg.vector_norm(eps.flatten(1), dim=1)
    return norm
