r"""Constraints on fields, and the physics behind the constraints.

This package is the lowest of the project: it imports none of the other packages. It also holds
four things that every package needs: errors that are sentences, randomness that depends on a key
alone, files that are written whole, and progress.
"""

__all__ = [
    "Ball",
    "Batch",
    "BelowOne",
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
    "Integer",
    "Key",
    "Linear",
    "MinimumHeight",
    "Natural",
    "NavierStokes",
    "NonNegativeFloat",
    "Obstacle",
    "OpenShare",
    "Periodic",
    "PlanarArm",
    "Polynomial",
    "PositiveFloat",
    "PositiveInt",
    "Projection",
    "Range",
    "Ranged",
    "Real",
    "Reflection",
    "Rotation",
    "Seed",
    "Share",
    "Simplex",
    "Spiral",
    "Sum",
    "TotalBrightness",
    "Waypoints",
    "check",
    "check_arguments",
    "check_fields",
    "check_hash",
    "check_range",
    "check_result",
    "derive_seed",
    "generator",
    "hash_content",
    "load_counter",
    "noise",
    "progress",
    "save_counter",
    "show_progress",
    "spectral",
    "take",
    "uniform",
    "whole_file",
    "whole_hdf5",
]

from .bars import progress, show_progress
from .base import Constraint, Distance, Projection, Sum
from .batch import Batch, Given, take
from .brightness import TotalBrightness
from .burgers import Burgers
from .conformance import Finding, check
from .count import Count, Counter, load_counter, save_counter
from .digest import check_hash, hash_content
from .errors import InputError, check_fields, check_result
from .files import whole_file
from .hdf5 import whole_hdf5
from .kolmogorov import Divergence, NavierStokes, spectral
from .paths import MinimumHeight, Obstacle, PlanarArm, Waypoints
from .polynomial import Polynomial
from .random import Key, derive_seed, generator, noise, uniform
from .ranges import (
    BelowOne,
    Integer,
    Natural,
    NonNegativeFloat,
    OpenShare,
    PositiveFloat,
    PositiveInt,
    Range,
    Ranged,
    Real,
    Seed,
    Share,
    check_arguments,
    check_range,
)
from .sets import Ball, Box, ConvexSet, Linear, Simplex
from .spiral import Spiral
from .symmetry import Periodic, Reflection, Rotation
