r"""Mirrors: a forward map g from data space to mirror space, and an inverse map f back.

Everything that trains or samples a diffusion model in mirror space knows a `Mirror` and nothing of
what it is made of. With the `IdentityMirror`, mirror space is data space.
"""

__all__ = ["IdentityMirror", "Mirror", "MirrorMap"]

import abc
from collections.abc import Sequence

from torch import Tensor, nn

from .nets import ICNN


class Mirror(nn.Module, abc.ABC):
    r"""Base of all mirrors."""

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        r"""Returns `y = g(x)`.

        Arguments:
            x: Fields in data space, with shape `(B, C, *S)`.

        Returns:
            Fields in mirror space, with shape `(B, *shape(x.shape[1:]))`.
        """

    @abc.abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        r"""Returns `x = f(y)`, with shape `(B, C, *S)`, for possibly noisy `y`."""

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        r"""Returns the shape of one field in mirror space, given its shape `(C, *S)` in data
        space. The same unless a mirror says otherwise."""
        return tuple(shape)

    def regulariser(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Returns what training adds to keep `y = g(x)` simple: the mean absolute difference."""
        return (y - x).abs().mean()


class IdentityMirror(Mirror):
    r"""Creates the mirror that changes nothing: mirror space is data space."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        return y


class MirrorMap(Mirror):
    r"""Creates a learned mirror of two networks.

    Arguments:
        forward_map: The network g. Where it is an `ICNN`, the regulariser is the mean absolute
            gradient of its potential; else the mean absolute change of the field.
        inverse_map: The network f.
    """

    def __init__(self, forward_map: nn.Module, inverse_map: nn.Module) -> None:
        super().__init__()
        self.forward_map = forward_map
        self.inverse_map = inverse_map

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_map(x)

    def inverse(self, y: Tensor) -> Tensor:
        return self.inverse_map(y)

    def regulariser(self, x: Tensor, y: Tensor) -> Tensor:
        if isinstance(self.forward_map, ICNN):
            return self.forward_map.excess(x, y).abs().mean()
        return super().regulariser(x, y)
