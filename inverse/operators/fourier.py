r"""Some Fourier coefficients of a field."""

__all__ = ["Fourier"]

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from constraints import Natural, NonNegativeFloat, PositiveInt, Seed, Share, generator

from .base import Orthonormal, check_last_axes, check_sides


class Fourier(Orthonormal):
    r"""Creates the operator that keeps some of the unitary Fourier coefficients over the last two
    axes, as real numbers.

    A real field has the same content at a frequency and at its opposite. Of each such pair kept,
    the measurements hold the real and the imaginary part times :math:`\sqrt 2`; of a frequency
    that is its own opposite, the real part. The rows of the operator are then orthonormal. The
    measurements have the shape `(B, C, K)`: all real parts, then all imaginary parts.

    Arguments:
        size: The sizes `[H, W]` of the last two axes.
        fraction: The share of the pairs that is kept, in [0, 1]: the lowest frequencies, and
            others drawn at random.
        low: The wave number up to which all frequencies are kept for any share; in cycles
            per side.
        seed: The seed of the draw.
        std: The std of the measurement noise.

    Raises:
        InputError: If the sizes are not positive, the share is not in [0, 1], or `low` is
            negative.
    """

    index: Tensor
    weight: Tensor

    def __init__(
        self,
        size: list[PositiveInt],
        fraction: Share = 0.25,
        low: Natural = 2,
        seed: Seed = 0,
        std: NonNegativeFloat | Tensor = 0.05,
    ) -> None:
        super().__init__(std)
        check_sides(self, size, axes=2)
        self.size = h, w = list(size)
        i, j = (k.flatten() for k in torch.meshgrid(*map(torch.arange, (h, w)), indexing="ij"))
        place, opposite = i * w + j, -i % h * w + -j % w
        radius = torch.hypot(torch.minimum(i, h - i).double(), torch.minimum(j, w - j).double())
        # one of each pair: the lowest frequencies, then the others in random order
        order = torch.randperm(h * w, generator=generator(seed, "fourier"))
        order = order[(place <= opposite)[order]]
        order = torch.cat([order[radius[order] <= low], order[radius[order] > low]])
        n = max(round(fraction * len(order)), int((radius[order] <= low).sum()))
        index = order[:n].sort().values
        paired = place[index] < opposite[index]
        self.pairs = int(paired.sum())
        # coefficients with an imaginary part come first
        index = torch.cat([index[paired], index[~paired]])
        weight = torch.ones(n, dtype=torch.float64)
        weight[: self.pairs] = math.sqrt(2)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_last_axes(self, self.size, x)
        spectrum = torch.fft.fft2(x, norm="ortho").flatten(-2).index_select(-1, self.index)
        spectrum = self.weight.to(x) * spectrum
        return torch.cat([spectrum.real, spectrum.imag[..., : self.pairs]], dim=-1)

    def adjoint(self, m: Tensor) -> Tensor:
        n = len(self.index)
        real, imag = m[..., :n], F.pad(m[..., n:], (0, n - self.pairs))
        kept = self.weight.to(m) * torch.complex(real, imag)
        spectrum = kept.new_zeros(*m.shape[:-1], math.prod(self.size))
        spectrum = spectrum.index_copy(-1, self.index, kept)
        spectrum = spectrum.reshape(*m.shape[:-1], *self.size)
        x: Tensor = torch.fft.ifft2(spectrum, norm="ortho").real
        return x
