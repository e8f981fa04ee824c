r"""Operators: how a field is measured, one operator a file."""

__all__ = [
    "SVD",
    "Blur",
    "Downsample",
    "Fourier",
    "Liftable",
    "LinearOperator",
    "Mask",
    "Operator",
    "Pullback",
    "Quantise",
    "RandomProjection",
    "Residual",
    "Select",
]

from .base import SVD, Liftable, LinearOperator, Operator, Pullback, Quantise, Residual
from .linear import Blur, Downsample, Fourier, RandomProjection
from .selection import Mask, Select
