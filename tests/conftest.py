"""A fixed seed for every test, one thread, and the reference data."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def deterministic() -> None:
    """Seed every test, and keep it on one thread."""

    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The path of the Burgers reference data, which lie beside the repository."""

    return shared("burgers_reference.h5")


@pytest.fixture(scope="session")
def kolmogorov_reference() -> Path:
    """The path of the reference trajectories of the Kolmogorov flow, beside those of Burgers."""

    return shared("kolmogorov_reference.h5")


def shared(name: str) -> Path:
    path = ROOT.parent / "shared" / "data" / name

    if not path.exists():
        pytest.skip(f"The reference data {path} are absent.")

    return path
