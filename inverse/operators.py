r"""Measurements :math:`m = A(x) + \text{std} \cdot n`, and their pull-back to mirror space.

A solver knows a denoiser and an operator and never hears of mirrors: solving in mirror space is
solving with the operator :math:`A \circ f`.
"""

__all__ = ["LinearOperator", "Operator", "Pullback", "Select"]

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from constraints import InputError, noise
from namm import Mirror


class Operator(nn.Module, abc.ABC):
    r"""Base of all operators.

    Arguments:
        std: The std of the measurement noise, in units of the measurement: a number, or one that
            broadcasts to `(B, *M)`.
    """

    std: Tensor

    def __init__(self, std: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.get_default_dtype()))

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        r"""Returns the noiseless measurements.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.

        Returns:
            The measurements, with shape `(B, *M)`.
        """

    def field(self, y: Tensor) -> Tensor:
        r"""Returns the fields in data space that belong to the operator's argument; the argument
        itself unless the operator is a `Pullback`."""
        return y

    def measure(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        r"""Returns noisy measurements.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            seeds: One seed for the noise of each field.

        Returns:
            The measurements, with shape `(B, *M)`.
        """
        m = self(x)
        return m + self.std * noise([(seed, "measure") for seed in seeds], m.shape[1:], m)


class LinearOperator(Operator, abc.ABC):
    r"""Base of the linear operators."""

    @abc.abstractmethod
    def adjoint(self, m: Tensor) -> Tensor:
        r"""Returns :math:`A^T m`, with shape `(B, C, *S)`."""

    @abc.abstractmethod
    def pinv(self, m: Tensor) -> Tensor:
        r"""Returns :math:`A^+ m`, with shape `(B, C, *S)`."""


class Select(LinearOperator):
    r"""Creates the operator that keeps some positions along one axis: the first times, some
    states, some channels.

    Arguments:
        dim: The axis of `(B, C, *S)`, for example -1 for time.
        index: The positions kept: a list, or a number n for the first n.
        size: The number of positions of the axis.
        std: The std of the measurement noise.
    """

    index: Tensor

    def __init__(self, dim: int, index: list[int] | int, size: int, std: float = 0.2) -> None:
        super().__init__(std)
        kept = list(range(index)) if isinstance(index, int) else index
        if not kept or min(kept) < 0 or max(kept) >= size or len(set(kept)) < len(kept):
            raise ValueError(
                f"Select expects distinct positions from 0 to {size - 1}, got {kept}."
            )
        self.dim, self.size = dim, size
        self.register_buffer("index", torch.tensor(kept), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.dim] != self.size:
            raise InputError(
                f"Select was told that axis {self.dim} has {self.size} positions, got fields of "
                f"shape {tuple(x.shape)}."
            )
        return x.index_select(self.dim, self.index)

    def adjoint(self, m: Tensor) -> Tensor:
        shape = list(m.shape)
        shape[self.dim] = self.size
        return m.new_zeros(shape).index_copy(self.dim, self.index, m)

    def pinv(self, m: Tensor) -> Tensor:
        return self.adjoint(m)


class Pullback(Operator):
    r"""Creates the operator :math:`A \circ f` on mirror space.

    Arguments:
        operator: The operator A on data space.
        mirror: The maps, of which f is used.
    """

    def __init__(self, operator: Operator, mirror: Mirror) -> None:
        super().__init__(operator.std)
        self.operator, self.mirror = operator, mirror

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(self.mirror.inverse(x))

    def field(self, y: Tensor) -> Tensor:
        return self.operator.field(self.mirror.inverse(y))
