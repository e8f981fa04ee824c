r"""Skies of galaxies as a radio telescope sees them.

As in the data of Feng et al. (2025), a galaxy is an elliptical Gaussian with

- a flux, which is its peak: uniform from 15 dB above the background to 10;
- a size: gamma(1.6) / 0.25 pixels, and at least 1 pixel;
- an ellipticity, by which its shorter axis falls behind: beta(1.7, 4.5);
- any angle, and a centre more than 5 pixels away from the other centres.

Where the recipe is silent: flux is a power, so that 15 dB are a factor :math:`10^{1.5}` of the std
of the background; the background is white noise, smoothed with a Gaussian of 1.5 pixels to a std
of 0.1, so that the faintest galaxy is a third as bright as the brightest. The size is the diameter
of four std along the longer axis; no std is below 1 pixel, so that no galaxy falls between the
points of the grid. Centres keep 5 pixels off the border. Last, an image is scaled to a minimum of
0 and a maximum of 1.
"""

__all__ = ["GalaxyData", "draw_background", "draw_catalogue", "render"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv, gammaincinv
from torch import Tensor

from constraints import Count, InputError, Key, PositiveInt, check_range, noise, uniform

from .simulated import Coords, SimulatedData

BACKGROUND = 0.1  # the std of the background, in units of flux
FLUX = (BACKGROUND * 10**1.5, 10.0)
DISTANCE = 5.0  # pixels
MARGIN = 5.0
SMOOTHING = 1.5
DRAWS, BLOCK = 10_000, 100


def draw_catalogue(key: Key, n: int, points: int) -> Tensor:
    r"""Draws the galaxies of an image. For a larger n, the same key adds galaxies to these n.

    Arguments:
        key: The key.
        n: The number of galaxies.
        points: The number of grid points along each axis.

    Returns:
        The galaxies, with shape `(n, 6)`: the centre along both axes in pixels, the flux, the std
        of the longer and of the shorter axis in pixels, and the angle in radians.

    Raises:
        InputError: If the galaxies do not find room.
    """
    share = uniform([(*key, "galaxy", i) for i in range(n)], (4,)).double()
    flux = FLUX[0] + (FLUX[1] - FLUX[0]) * share[:, 0]
    size = torch.from_numpy(gammaincinv(1.6, share[:, 1].numpy()) / 0.25).clamp(min=1.0)
    ellipticity = torch.from_numpy(betaincinv(1.7, 4.5, share[:, 2].numpy()))
    longer, shorter = ((size / 4 * s).clamp(min=1.0) for s in (1.0, 1 - ellipticity))
    looks = torch.stack([flux, longer, shorter, math.pi * share[:, 3]], dim=1)
    return torch.cat([_place(key, n, points), looks], dim=1)


def _place(key: Key, n: int, points: int) -> Tensor:
    side = points - 1 - 2 * MARGIN
    kept: list[list[float]] = []
    for start in range(0, DRAWS if side > 0 else 0, BLOCK):
        drawn = MARGIN + side * uniform([(*key, "centre", start)], (BLOCK, 2))[0].double()
        for centre in drawn.tolist():
            if all(math.dist(centre, other) > DISTANCE for other in kept):
                kept.append(centre)
            if len(kept) == n:
                return torch.tensor(kept, dtype=torch.float64)
    found = f"Only {len(kept)} of {n} galaxies found room on {points} x {points} points"
    raise InputError(f"{found}: ask for fewer galaxies, or for more points.")


def draw_background(key: Key, points: int) -> Tensor:
    r"""Draws the background of an image.

    Arguments:
        key: The key.
        points: The number of grid points along each axis.

    Returns:
        The background in units of flux, with shape `(points, points)`.
    """
    reach = math.ceil(3 * SMOOTHING)
    weights = [math.exp(-0.5 * (k / SMOOTHING) ** 2) for k in range(-reach, reach + 1)]
    size = points + 2 * reach
    smooth = noise([(*key, "background")], (size, size))[0].double()
    for dim in (0, 1):
        # sums of shifted arrays round alike everywhere, which a convolution need not
        shifted = (w * smooth.narrow(dim, k, points) for k, w in enumerate(weights))
        smooth = sum(shifted, start=torch.zeros(()))
    return BACKGROUND / sum(w**2 for w in weights) * smooth


def render(catalogue: Tensor, background: Tensor) -> Tensor:
    r"""Draws galaxies on a background, and scales the image to a minimum of 0 and a maximum of 1.

    Arguments:
        catalogue: The galaxies, with shape `(n, 6)`, as from `draw_catalogue`.
        background: The background, with shape `(H, W)`.

    Returns:
        The image, with shape `(H, W)`.
    """
    row, column = (torch.arange(size).double() for size in background.shape)
    image = background.clone()
    for y, x, flux, longer, shorter, angle in catalogue.tolist():
        dy, dx = row[:, None] - y, column - x
        along = (math.sin(angle) * dy + math.cos(angle) * dx) / longer
        across = (math.cos(angle) * dy - math.sin(angle) * dx) / shorter
        image += flux * torch.exp(-0.5 * (along**2 + across**2))
    return (image - image.min()) / (image.max() - image.min())


class GalaxyData(SimulatedData):
    r"""Creates skies with the number of galaxies that their constraint asks for. A field has shape
    `(1, points, points)`.

    The number is exact, so that the distance of these fields to the constraint is the error of
    its counter.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        constraint: The number of galaxies.
        points: The number of grid points along each axis.
        kwargs: The arguments of `SimulatedData`.

    Raises:
        InputError: If the constraint asks for no galaxies, or if there are no points.
    """

    constraint: Count

    def __init__(self, constraint: Count, points: PositiveInt = 128, **kwargs: Any) -> None:
        super().__init__(constraint, **kwargs)
        check_range(self, "[1, inf)", n=constraint.n)
        self.points = points
        # a counter is rarely off by one, an untrained one by most of n
        self.floor = max(2.0, constraint.n / 2)

    def draw(self, keys: Sequence[Key]) -> Tensor:
        n, points = self.constraint.n, self.points
        skies = [render(draw_catalogue(k, n, points), draw_background(k, points)) for k in keys]
        return torch.stack(skies).unsqueeze(1)

    def coords(self) -> Coords:
        return {axis: (np.arange(self.points), "pixels") for axis in ("y", "x")}

    def describe(self) -> dict[str, Any]:
        return {
            "axes": ["y", "x"],
            "channels": ["brightness"],
            "points": self.points,
            "solver": "elliptical Gaussians: flux uniform from 15 dB above the background to 10, "
            "size gamma(1.6) / 0.25 px, ellipticity beta(1.7, 4.5), more than 5 px apart; on "
            "noise of std 0.1 smoothed over 1.5 px; scaled to [0, 1]",
            "units": "dimensionless",
        }
