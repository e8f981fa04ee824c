r"""Images of the ring of light around a black hole, drawn from an analytic family.

An image of a hot accretion flow at the scale of the horizon has few features, and the family
multiplies and adds simple forms of the features. With :math:`(r, \varphi)` the polar coordinates
around the centre of the disc, from the direction of the approaching side and in the plane of the
disc, and :math:`\varrho` the distance from the centre of the shadow, in units of its radius,

.. math::
    d &= \frac{(1 + r^2)^{-\alpha / 2}}{1 + \exp((1 - \varrho) / \delta)} \, D M, \quad
    t = \exp\left(-\frac{(\varrho - 1)^2}{2 \delta^2}\right) D M, \\
    D &= (1 + \beta \cos \varphi)^p, \quad
    M = \exp \sum_{m=2}^4 a_m \cos(m \varphi - \tau \log r - \varphi_m)

are the disc, a crescent because its shadow is off its centre (Kamruddin and Dexter, 2013); the
thin photon ring; the beaming of light from matter that comes towards us; and the modes of a ring
that is not even (Johnson et al., 2020), wound up to arms of a spiral. A wide glow and a hot spot
are added. The sharp edges of an ideal image are blurred to the width delta.
"""

__all__ = ["BlackHoleData"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constraints import InputError, Key, PositiveInt, Real, TotalBrightness, uniform

from .simulated import Coords, SimulatedData

MODES = (2, 3, 4)
SHARES = ("ring", "glow", "spot")
SIZES = ("diameter", "axis_ratio", "blur", "glow_size", "spot_size")
RANGES = {
    "diameter": (0.26, 0.46),
    "x": (-0.04, 0.04),
    "y": (-0.04, 0.04),
    "angle": (0.0, 2 * math.pi),
    "axis_ratio": (0.75, 1.0),
    "shift": (0.0, 0.3),
    "falloff": (3.0, 9.0),
    "blur": (0.012, 0.035),
    "speed": (0.1, 0.6),
    "beaming": (2.0, 4.0),
    "winding": (-3.0, 3.0),
    **{f"amplitude_{m}": (0.0, 0.8 / m) for m in MODES},
    **{f"phase_{m}": (0.0, 2 * math.pi) for m in MODES},
    "ring": (0.0, 0.3),
    "glow": (0.0, 0.25),
    "glow_size": (0.5, 1.0),
    "spot": (0.0, 0.08),
    "spot_radius": (1.0, 1.5),
    "spot_angle": (0.0, 2 * math.pi),
    "spot_size": (0.2, 0.4),
}


class BlackHoleData(SimulatedData):
    r"""Creates images of black holes with a given total brightness. A field has shape
    `(1, points, points)`: y is the second-last axis and x the last, both ascend from -1/2 to 1/2.
    No pixel is negative.

    Each parameter is uniform in its range, by default in `RANGES`. In units of the field of view
    are `diameter` (of the shadow), `x` and `y` (the centre of the disc) and `blur`; in units of
    the shadow's radius `shift` (of the shadow towards the receding side), `spot_radius` and
    `spot_size`; in units of its diameter `glow_size`. `angle` is the direction of the approaching
    side, from x to y, and `axis_ratio` the disc's, squeezed across that direction. `ring`, `glow`
    and `spot` are shares of the total, `speed` is beta, `beaming` p, `falloff` alpha and `winding`
    tau; `amplitude_2`, `phase_2` and so on belong to the modes.

    References:
        A geometric crescent model for black hole images (Kamruddin and Dexter, 2013)
        https://arxiv.org/abs/1306.3226

        Universal Interferometric Signatures of a Black Hole's Photon Ring (Johnson et al., 2020)
        https://arxiv.org/abs/1907.04329

    Arguments:
        constraint: The total brightness.
        points: The number of pixels along each side.
        ranges: The lowest and the highest value of parameters whose range is not the usual one.
        kwargs: The arguments of `SimulatedData`.

    Raises:
        InputError: If the points are not positive, if a range is one of no parameter, if its ends
            are out of order, or if it allows a size that is not positive, a speed of 1 or a
            negative brightness.
    """

    constraint: TotalBrightness

    def __init__(
        self,
        constraint: TotalBrightness,
        points: PositiveInt = 64,
        ranges: Mapping[str, Sequence[Real]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(constraint, **kwargs)
        self.points = points
        self.ranges = {name: list(ends) for name, ends in RANGES.items()}
        for name, ends in (ranges or {}).items():
            if name not in RANGES or len(ends) != 2 or ends[0] > ends[1]:
                names = ", ".join(RANGES)
                raise InputError(f"`ranges` has '{name}' = {[*ends]}, give two ends for {names}.")
            self.ranges[name] = [float(end) for end in ends]
        least, most = ({name: ends[i] for name, ends in self.ranges.items()} for i in (0, 1))
        if min(least[name] for name in SIZES) <= 0 or not -1 < least["speed"] <= most["speed"] < 1:
            raise InputError(
                f"`ranges` must leave {', '.join(SIZES)} positive, and speed below 1."
            )
        if min(least[name] for name in SHARES) < 0 or sum(most[name] for name in SHARES) > 1:
            raise InputError(
                f"`ranges` must leave {', '.join(SHARES)} from 0, with a sum of at most 1."
            )
        # the error of a sum of numbers rounded to float32 is below this share of the sum
        self.floor = 2**-23 * constraint.total

    def parameters(self, key: Key) -> dict[str, float]:
        r"""Draws the parameters of a field.

        Arguments:
            key: The key of the field.
        """
        shares = uniform([key], (len(self.ranges),))[0].double().tolist()
        return {
            name: least + share * (most - least)
            for (name, (least, most)), share in zip(self.ranges.items(), shares, strict=True)
        }

    def render(self, parameters: Mapping[str, float]) -> Tensor:
        r"""Returns the image of given parameters, with shape `(1, points, points)`."""
        p, radius = parameters, parameters["diameter"] / 2
        side = (torch.arange(self.points, dtype=torch.float64) + 0.5) / self.points - 0.5
        x, y = (side - p["x"]) / radius, (side[:, None] - p["y"]) / radius

        # the frame of the disc, in units of the radius of the shadow
        cos, sin = math.cos(p["angle"]), math.sin(p["angle"])
        along, across = cos * x + sin * y, (cos * y - sin * x) / p["axis_ratio"]
        r, phi = torch.hypot(along, across), torch.atan2(across, along)
        rho = torch.hypot(along + p["shift"], across)
        delta = p["blur"] / radius

        beaming = (1 + p["speed"] * phi.cos()) ** p["beaming"]
        twist = p["winding"] * r.clamp(min=0.1).log()
        modes = [p[f"amplitude_{m}"] * (m * phi - twist - p[f"phase_{m}"]).cos() for m in MODES]
        pattern = beaming * torch.stack(modes).sum(dim=0).exp()
        at_x, at_y = (p["spot_radius"] * f(p["spot_angle"]) for f in (math.cos, math.sin))

        parts = {
            "disc": torch.sigmoid((rho - 1) / delta) * (1 + r**2) ** (-p["falloff"] / 2) * pattern,
            "ring": torch.exp(-(((rho - 1) / delta) ** 2) / 2) * pattern,
            "glow": torch.exp(-(r**2) / (2 * (2 * p["glow_size"]) ** 2)),
            "spot": torch.exp(
                -((along - at_x) ** 2 + (across - at_y) ** 2) / (2 * p["spot_size"] ** 2)
            ),
        }
        shares = {name: p[name] for name in SHARES}
        shares["disc"] = 1 - sum(shares.values())
        image = torch.stack([s * parts[k] / parts[k].sum() for k, s in shares.items()]).sum(dim=0)
        return (self.constraint.total * image / image.sum()).unsqueeze(0)

    def draw(self, keys: Sequence[Key]) -> Tensor:
        # one by one: the last digits of exp and cos may depend on the place in memory
        return torch.stack([self.render(self.parameters(key)) for key in keys])

    def coords(self) -> Coords:
        side = (np.arange(self.points) + 0.5) / self.points - 0.5
        return {"y": (side, "field of view"), "x": (side, "field of view")}

    def describe(self) -> dict[str, Any]:
        return {
            "problem": "black_hole",
            "axes": ["y", "x"],
            "channels": ["brightness"],
            "boundary": {"y": "none", "x": "none"},
            "points": self.points,
            "ranges": self.ranges,
            "solver": "analytic crescent with a photon ring, beamed and with spiral modes, "
            "scaled to the total",
            "units": "dimensionless",
        }
