r"""Trust sampling: several short gradient steps at each level, as far as it can be trusted."""

__all__ = ["Trust"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from constraints import Constraint, derive_seed
from mdm import Denoiser, Level, Transition, chain

from .base import Cost, Run, Sequential, misfit
from .budget import ConstantBudget, TrustBudget


class Trust(Sequential):
    r"""Creates trust sampling. At each level but the last, the mean of the next state descends the
    misfit of its own denoised field by normalised steps,

    .. math:: y \leftarrow y - w \frac{G(y)}{\|G(y)\| + 10^{-6}}, \quad
        G(y) = \nabla_y L(\hat y(y, t)),

    as many as the budget :math:`J_t` allows, and as long as the norm of the predicted noise
    :math:`(y - \alpha_t \hat y) / \sigma_t` is within a bound, which is tested for each sample;
    one that fails stays where it is until the next level. Then the noise of the transition is
    added. The product :math:`J_t w` is the radius within which the level is trusted.

    The bound is none, a number, or estimated: the quantile, at each level, of that norm in
    unguided runs of the same chain, at the price of `2 steps` calls before the first run. In few
    dimensions the norm does not concentrate, and a bound stops ordinary samples.

    References:
        Constrained Diffusion with Trust Sampling (Huang et al., 2024)
        https://arxiv.org/abs/2411.10932

    Arguments:
        budget: The number of steps at each level; 4 at each if missing.
        step_size: The length w of a step, in field units; in papers also quoted as
            :math:`w / \sqrt{n}` for fields of n entries.
        bound: The largest norm of the predicted noise, if any.
        quantile: The quantile in (0, 1] with which the bound is estimated, if it is.
        bound_samples: The number of unguided samples for the estimate.
        constraint: The constraint that also guides, if any.
        weight: The weight of its distance.
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(
        self,
        budget: TrustBudget | None = None,
        step_size: float = 0.1,
        bound: float | None = None,
        quantile: float | None = None,
        bound_samples: int = 64,
        constraint: Constraint | None = None,
        weight: float = 200.0,
        transition: Transition | None = None,
    ) -> None:
        super().__init__(transition)
        if bound is not None and quantile is not None:
            raise ValueError(
                f"Trust takes its bound from `bound` or estimates it with `quantile`, got both, "
                f"{bound} and {quantile}: leave one out."
            )
        if quantile is not None and not 0 < quantile <= 1:
            raise ValueError(f"Trust expects a quantile in (0, 1], got {quantile}.")
        if quantile is not None and self.transition.start < 1:
            raise ValueError(
                "Trust estimates its bound in runs from noise alone, got a transition that starts "
                f"at {self.transition.start:g}: give `bound`, or a start of 1."
            )
        self.budget = budget or ConstantBudget()
        self.step_size, self.bound, self.quantile = step_size, bound, quantile
        self.bound_samples = bound_samples
        self.constraint, self.weight = constraint, weight
        self._estimated: tuple[Denoiser, tuple[int, ...], list[float]] | None = None

    def prepare(self, denoiser: Denoiser, shape: Sequence[int]) -> None:
        if self.quantile is not None:
            self.estimate(denoiser, shape)

    def begin(self, run: Run, shape: Sequence[int]) -> None:
        levels = self.levels(run.denoiser)
        bounds = [math.inf if self.bound is None else self.bound] * len(levels)
        if self.quantile is not None:
            bounds = self.estimate(run.denoiser, shape)
        run.facts |= {
            "inner_steps": self.budget.steps(levels, run.denoiser.schedule),
            "bounds": bounds,
            "accepted": [0] * len(run.m),
        }

    def estimate(self, denoiser: Denoiser, shape: Sequence[int]) -> list[float]:
        r"""Returns the bound of each level: a quantile of the norm of the predicted noise at the
        mean of the next state, in unguided runs. The estimate for the last denoiser and shape is
        kept.

        Arguments:
            denoiser: The prior.
            shape: The shape `(C, *S)` of one field.
        """
        key = (denoiser, tuple(shape))
        if self._estimated is None or self._estimated[:2] != key:
            bounds = []

            def advance(y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
                mean = level.mean(denoiser(y_t, level.t.to(y_t)), y_t)
                norm = _noise_norm(mean, denoiser(mean, level.t.to(mean)), level)
                bounds.append(float(torch.quantile(norm.double(), self.quantile or 1.0)))
                return level.land(mean)

            seeds = [derive_seed("trust", i) for i in range(self.bound_samples)]
            chain(self.transition, denoiser, shape, seeds, advance)
            self._estimated = (*key, bounds)
        return self._estimated[2]

    def step(self, run: Run, y_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        y = level.mean(run.denoiser(y_t, level.t.to(y_t)), y_t)
        if level.s == 0:
            return level.land(y)

        def loss(y_hat: Tensor) -> Tensor:
            return misfit(run.operator, run.m, y_hat, self.constraint, self.weight)

        active = torch.ones(len(y), dtype=torch.bool, device=y.device)
        for _ in range(run.facts["inner_steps"][level.k]):
            y_hat, gradient = run.pull(y, level.t, loss)
            active = active & (_noise_norm(y, y_hat, level) <= run.facts["bounds"][level.k])
            if not active.any():
                break
            gradient = run.guard(gradient, limit=math.inf)
            length = torch.linalg.vector_norm(gradient.flatten(1), dim=1) + 1e-6
            scale = self.step_size * active / length
            y = y - scale.reshape(-1, *[1] * (y.ndim - 1)) * gradient
            accepted = zip(run.facts["accepted"], active.tolist(), strict=True)
            run.facts["accepted"] = [n + int(a) for n, a in accepted]
        return level.land(y)

    def cost(self, denoiser: Denoiser) -> Cost:
        levels = self.levels(denoiser)
        inner = sum(self.budget.steps(levels, denoiser.schedule))
        estimate = 2 * len(levels) if self.quantile is not None else 0
        return Cost(len(levels) + inner + estimate, inner)


def _noise_norm(y: Tensor, y_hat: Tensor, level: Level) -> Tensor:
    eps = (y - level.alpha_t * y_hat) / level.sigma_t
    return torch.linalg.vector_norm(eps.flatten(1), dim=1)
