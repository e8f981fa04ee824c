r"""Where fields come from: files of the schema `namm-field/1`, simulated on first use."""

__all__ = [
    "BurgersData",
    "FieldData",
    "FieldDataset",
    "KeyedBatches",
    "SpiralData",
    "check_fits",
    "hash_fields",
    "read_attributes",
    "write_fields",
]

from .base import FieldData
from .burgers import BurgersData
from .dataset import FieldDataset
from .sampler import KeyedBatches
from .schema import check_fits, hash_fields, read_attributes, write_fields
from .spiral import SpiralData
