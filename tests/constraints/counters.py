"""A tiny counter and tiny galaxies, and where the shipped counter lies."""

from pathlib import Path
from typing import Any

from constraints import Count, Counter
from datamodules import GalaxyData
from tests.problems import randomise

ROOT = Path(__file__).resolve().parents[2]


SHIPPED = ROOT / "pretrained" / "count" / "counter.safetensors"


def tiny_counter(seed: int = 0, scale: float = 0.2) -> Counter:
    """A counter of random weights that sees 16 pixels far."""

    counter = Counter(width=4, blocks=1)
    randomise(counter, scale, seed)
    return counter


def tiny_galaxies(folder: Path, constraint: Count | None = None, **options: Any) -> GalaxyData:
    sizes = {"train": 8, "val": 4, "test": 4}
    options = {"points": 32, "batch_size": 4, "sizes": sizes, **options}
    constraint = constraint or Count(2, tiny_counter())
    return GalaxyData(constraint, file=str(folder / "galaxies.h5"), **options)
