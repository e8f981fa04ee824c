r"""Constraints on fields, and the physics behind the constraints.

This package is the lowest of the project: it imports none of the other packages. It also holds
three things that every package needs: errors that are sentences, randomness that depends on a key
alone, and files that are written whole.
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
    "Key",
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
    "check_fields",
    "check_range",
    "derive_seed",
    "generator",
    "load_counter",
    "noise",
    "save_counter",
    "spectral",
    "take",
    "uniform",
    "whole_file",
]

from .base import Constraint, Distance, Projection, Sum
from .batch import Batch, Given, take
from .brightness import TotalBrightness
from .burgers import Burgers
from .conformance import Finding, check
from .count import Count, Counter, load_counter, save_counter
from .errors import InputError, check_fields, check_range
from .files import whole_file
from .kolmogorov import Divergence, NavierStokes, spectral
from .paths import MinimumHeight, Obstacle, PlanarArm, Waypoints
from .polynomial import Polynomial
from .random import Key, derive_seed, generator, noise, uniform
from .sets import Ball, Box, ConvexSet, Linear, Simplex
from .spiral import Spiral
from .symmetry import Periodic, Reflection, Rotation
