r"""What a field must satisfy, and the physics that says so.

The lowest package of the project: it imports none of the others. It also holds the two things
every package needs and none owns: errors that are sentences, and randomness that depends on a
key alone.
"""

__all__ = [
    "Burgers",
    "Constraint",
    "InputError",
    "Polynomial",
    "Spiral",
    "Sum",
    "derive_seed",
    "generator",
    "noise",
    "uniform",
]

from .base import Constraint, Sum
from .burgers import Burgers
from .errors import InputError
from .polynomial import Polynomial
from .random import derive_seed, generator, noise, uniform
from .spiral import Spiral
