r"""Fields whose energy is conserved in time, and waves that conserve theirs."""

__all__ = ["ConservedEnergy", "WaveData"]

from .constraint import ConservedEnergy
from .data import WaveData
