r"""Kolmogorov flow: its constraints, the finite-volume solver, and the spectral operators."""

__all__ = ["Divergence", "NavierStokes", "spectral"]

from . import spectral
from .flow import Divergence, NavierStokes
