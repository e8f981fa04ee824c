r"""Black and white patterns that a group of moves leaves as they are.

As in the data of Feng et al. (2025), a pattern is where a sample of a Gaussian process exceeds
0.5. The process has mean zero and the periodic kernel

.. math:: k(r) = \sigma^2 \exp\left(-\frac{2}{\ell^2} \sum_i \sin^2(\pi r_i / p)\right),

of which the paper gives :math:`\sigma = 0.7` and :math:`\ell = 0.7`. The paper leaves three
choices open. Here the kernel is a product over the two axes, its period p is the side of a tile,
and sigma is a standard deviation, so that 24 % of the pixels are white. Clipping to [0, 1] before
the threshold changes nothing.
"""

__all__ = ["PeriodicData"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constraints import (
    Key,
    Periodic,
    PositiveFloat,
    PositiveInt,
    Reflection,
    Rotation,
    noise,
)

from .simulated import Coords, SimulatedData

LEVEL = 0.5


class PeriodicData(SimulatedData):
    r"""Creates binary patterns of one of the symmetries. A field has shape `(1, points, points)`
    and satisfies its constraint exactly.

    For tiles the process fills one of them, which is repeated. For reflections and rotations it
    fills the image, is summed over the group and divided by the root of the number of elements;
    its period is then the side of the image, so that all patterns go on across the edges.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        constraint: The symmetry.
        points: The number of pixels along each side.
        sigma: The std of the process.
        length: The length scale of the kernel, where a period is :math:`\pi`.
        kwargs: The arguments of `SimulatedData`.

    Raises:
        InputError: If the points, sigma or the length are not positive, or if the tiles do not
            fit the image.
    """

    constraint: Periodic | Reflection | Rotation

    def __init__(
        self,
        constraint: Periodic | Reflection | Rotation,
        points: PositiveInt = 64,
        sigma: PositiveFloat = 0.7,
        length: PositiveFloat = 0.7,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, **kwargs)
        constraint.check_shape(torch.empty(1, 1, points, points))
        self.points = points
        self.sigma = sigma
        self.length = length
        self.tiles = constraint.tiles if isinstance(constraint, Periodic) else [1, 1]
        self.roots = [_root(points // n, length) for n in self.tiles]

    def process(self, key: Key) -> Tensor:
        r"""Returns a sample of the process.

        Arguments:
            key: The key of the field.

        Returns:
            The sample, with shape `(1, H, W)`: one tile, or else the image.
        """
        down, across = self.roots
        white = noise([key], (len(down), len(across)), down)
        return self.sigma * down @ white @ across

    def draw(self, keys: Sequence[Key]) -> Tensor:
        # one by one: a product may round in an order that depends on the number of samples
        u = torch.stack([self.process(key) for key in keys])
        if isinstance(self.constraint, Periodic):
            return (u > LEVEL).double().repeat(1, 1, *self.tiles)
        orbit = self.constraint.orbit(u)
        u = orbit.sum(dim=1) / math.sqrt(orbit.shape[1])
        # sums of one orbit may differ by rounding
        return (self.constraint.unfold(u) > LEVEL).double()

    def coords(self) -> Coords:
        middles = (np.arange(self.points) + 0.5) / self.points
        return {"y": (middles, "side of the image"), "x": (middles, "side of the image")}

    def describe(self) -> dict[str, Any]:
        return {
            "problem": "periodic",
            "axes": ["y", "x"],
            "channels": ["brightness"],
            "boundary": {"y": "periodic", "x": "periodic"},
            "points": self.points,
            "sigma": self.sigma,
            "length": self.length,
            "symmetry": type(self.constraint).__name__,
            "solver": f"Gaussian process with a periodic kernel, thresholded at {LEVEL}",
            "units": "dimensionless",
        }


def _root(n: int, length: float) -> Tensor:
    r"""Returns the symmetric square root of the kernel's matrix along one axis, `(n, n)`."""
    i = torch.arange(n)
    kernel = torch.exp(-2 * (math.pi * i.double() / n).sin().square() / length**2)
    # a stationary kernel on a circle is diagonal in Fourier space, up to rounding not negative
    powers = torch.fft.fft(kernel).real.clamp(min=0)
    root: Tensor = torch.fft.ifft(powers.sqrt()).real
    return root[(i[:, None] - i) % n]
