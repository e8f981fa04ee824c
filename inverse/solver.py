r"""Solvers: samples of a field given a measurement of it.

The loop down the levels exists once, in `mdm.chain`; a guided solver of that kind says only how a
measurement moves the mean of the next state.
"""

__all__ = ["Sequential", "Solver", "guard"]

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mdm import DDIM, Denoiser, Result, Step, Transition, chain

from .operators import Operator


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


class Sequential(Solver, abc.ABC):
    r"""Base of the solvers that go down a chain of transitions, with a guided mean at each level.

    A guidance that is not finite, or more than 1000 times its own running scale, is left out for
    that sample at that level, and counted in the report as `rejected`; no sample is ever dropped.

    Arguments:
        transition: The transitions; 100 ancestral steps, `DDIM()`, if missing.
    """

    def __init__(self, transition: Transition | None = None) -> None:
        super().__init__()
        self.transition = transition or DDIM()

    @abc.abstractmethod
    def guidance(
        self, denoiser: Denoiser, operator: Operator, m: Tensor, y_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the denoised field and the move of the next mean.

        Arguments:
            denoiser: The prior.
            operator: The operator.
            m: The measurements, with shape `(B, *M)`.
            y_t: The noisy fields, with shape `(B, C, *S)`.
            t: The time, with shape `()`.

        Returns:
            The denoised fields, and what is added to the mean of the next state, both with shape
            `(B, C, *S)`.
        """

    def __call__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
    ) -> Result:
        with torch.inference_mode(False):
            m = m.clone()  # a normal tensor, also where the caller is in inference mode
            scale = m.new_zeros(len(m))
            rejected = torch.zeros_like(scale, dtype=torch.long)

            def mean(y_t: Tensor, t: Tensor, step: Step) -> Tensor:
                nonlocal scale, rejected
                y_hat, move = self.guidance(denoiser, operator, m, y_t.detach(), t)
                move, scale, bad = guard(move.detach(), scale)
                rejected = rejected + bad
                return step.c1 * y_hat.detach() + step.c2 * y_t + move

            result = chain(self.transition, denoiser, shape, seeds, mean)
        facts: dict[str, Any] = {"rejected": rejected.tolist()}
        return Result(result.y, result.mean, {**result.report, **facts})


def guard(move: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Leaves out the guidance of samples for which it has blown up.

    Arguments:
        move: The guidance, with shape `(B, C, *S)`.
        scale: The running scale of its norm for each sample, 0 before the first, with shape
        `(B,)`.

    Returns:
        The guidance with those samples at 0, the new scale, and which samples they are, `(B,)`.
    """
    norm = torch.linalg.vector_norm(move.flatten(1), dim=1)
    bad = ~torch.isfinite(norm) | ((scale > 0) & (norm > 1e3 * scale))
    mask = bad.reshape(-1, *[1] * (move.ndim - 1))
    fresh = torch.where(scale > 0, 0.9 * scale + 0.1 * norm, norm)
    return torch.where(mask, 0, move), torch.where(bad, scale, fresh), bad
