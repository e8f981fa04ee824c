r"""What a field must satisfy, and the physics that says so.

The lowest package of the project: it imports none of the others. It also holds the two things
every package needs and none owns: errors that are sentences, and randomness that depends on a
key alone.
"""

__all__ = [
    "Ball",
    "Batch",
    "Box",
    "Burgers",
    "Constraint",
    "ConvexSet",
    "Count",
    "Counter",
    "Distance",
    "Divergence",
    "Finding",
    "Given",
    "InputError",
    "Linear",
    "MinimumHeight",
    "NavierStokes",
    "Obstacle",
    "Periodic",
    "PlanarArm",
    "Polynomial",
    "Projection",
    "Reflection",
    "Rotation",
    "Simplex",
    "Spiral",
    "Sum",
    "TotalBrightness",
    "Waypoints",
    "check",
    "check_range",
    "derive_seed",
    "generator",
    "load_counter",
    "noise",
    "save_counter",
    "spectral",
    "take",
    "uniform",
]

from .base import Constraint, Distance, Projection, Sum
from .batch import Batch, Given, take
from .brightness import TotalBrightness
from .burgers import Burgers
from .conformance import Finding, check
from .count import Count, Counter, load_counter, save_counter
from .errors import InputError, check_range
from .kolmogorov import Divergence, NavierStokes, spectral
from .paths import MinimumHeight, Obstacle, PlanarArm, Waypoints
from .polynomial import Polynomial
from .random import derive_seed, generator, noise, uniform
from .sets import Ball, Box, ConvexSet, Linear, Simplex
from .spiral import Spiral
from .symmetry import Periodic, Reflection, Rotation
