r"""Data modules: fields in files of the schema `namm-field/1`, simulated on first use."""

__all__ = [
    "ArmData",
    "BlackHoleData",
    "BurgersData",
    "CountingData",
    "FieldData",
    "FieldDataset",
    "GalaxyData",
    "ImageData",
    "KeyedBatches",
    "KolmogorovData",
    "PeriodicData",
    "PointMassData",
    "ReferenceData",
    "SimulatedData",
    "SpiralData",
    "check_fits",
    "hash_fields",
    "read_attributes",
    "read_fields",
    "write_fields",
]

from .base import FieldData
from .black_hole import BlackHoleData
from .burgers import BurgersData
from .counting import CountingData
from .dataset import FieldDataset, read_fields
from .galaxies import GalaxyData
from .images import ImageData
from .kolmogorov import KolmogorovData
from .loaders import KeyedBatches
from .paths import ArmData, PointMassData
from .periodic import PeriodicData
from .reference import ReferenceData
from .schema import check_fits, hash_fields, read_attributes, write_fields
from .simulated import SimulatedData
from .spiral import SpiralData
