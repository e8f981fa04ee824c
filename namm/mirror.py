r"""Mirrors: a forward map g from data space to mirror space, and an inverse map f back.

A stage that trains or samples a diffusion model in mirror space knows a `Mirror`, and not the
networks of the mirror. With the `IdentityMirror`, mirror space is data space.
"""

__all__ = ["Clamped", "IdentityMirror", "Mirror", "MirrorMap", "Regularised", "space"]

import abc
import hashlib
import json
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from constraints import InputError, Ranged

from .description import describe


@runtime_checkable
class Regularised(Protocol):
    r"""A network g with a regulariser of its own."""

    def regulariser(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Returns the scalar by which training keeps `y = g(x)` simple."""


@runtime_checkable
class Clamped(Protocol):
    r"""A module whose weights have an allowed range."""

    def clamp_(self) -> None:
        r"""Returns the weights to their allowed range."""


class Mirror(Ranged, nn.Module, abc.ABC):
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
        space. The shapes are equal unless a mirror says otherwise."""
        return tuple(shape)

    def regulariser(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Returns the scalar by which training keeps `y = g(x)` simple: the mean absolute
        difference of x and y."""
        return (y - x).abs().mean()

    def clamp_(self) -> None:
        r"""Returns the weights to their allowed range. Training calls it after each step."""

    def freeze_forward(self) -> None:
        r"""Keeps the forward map as it is in all training that follows."""
        raise InputError(f"{type(self).__name__} has no map to freeze: leave out freeze_forward.")

    def space(self) -> str:
        r"""Returns the name of the mirror space, which tells the space of a diffusion model from
        other spaces: a hash of the parameters of the maps."""
        return hashlib.sha256(json.dumps(describe(self)).encode()).hexdigest()


class IdentityMirror(Mirror):
    r"""Creates the mirror that changes nothing: mirror space is data space, of the name `data`."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        return y

    def space(self) -> str:
        return "data"


class MirrorMap(Mirror):
    r"""Creates a learned mirror of two networks. A hash of the weights of g names its space.

    Arguments:
        forward_map: The network g. The regulariser of a `Regularised` network, as `ICNN` is,
            takes the place of the mean absolute difference.
        inverse_map: The network f. Each `Clamped` module inside of g or f is clamped after each
            step.
    """

    def __init__(self, forward_map: nn.Module, inverse_map: nn.Module) -> None:
        super().__init__()
        self.forward_map = forward_map
        self.inverse_map = inverse_map

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.forward_map(x)
        return y

    def inverse(self, y: Tensor) -> Tensor:
        x: Tensor = self.inverse_map(y)
        return x

    def regulariser(self, x: Tensor, y: Tensor) -> Tensor:
        if isinstance(self.forward_map, Regularised):
            return self.forward_map.regulariser(x, y)
        return super().regulariser(x, y)

    def clamp_(self) -> None:
        for network in (self.forward_map, self.inverse_map):
            for module in network.modules():
                if isinstance(module, Clamped):
                    module.clamp_()

    def freeze_forward(self) -> None:
        self.forward_map.requires_grad_(False).eval()

    def space(self) -> str:
        weights = self.forward_map.state_dict()
        digest = hashlib.sha256()
        for name, weight in weights.items():
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return digest.hexdigest() if weights else super().space()


def space(mirror: Mirror) -> str:
    r"""Returns the name of the space of a mirror, `mirror.space()`."""
    return mirror.space()
