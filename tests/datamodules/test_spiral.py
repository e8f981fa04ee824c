"""Points along the spiral, and their file."""

import math
from pathlib import Path

import pytest
import torch

from constraints import InputError, Polynomial, Spiral
from datamodules import SpiralData, check_fits, read_attributes
from tests.constraints.polynomials import TERMS


def data(folder: Path, **options: float) -> SpiralData:
    sizes = {"train": 64, "val": 8, "test": 8}
    file = str(folder / "spiral.h5")
    return SpiralData(Spiral(), file=file, sizes=sizes, **options)  # type: ignore[arg-type]


# data
def test_data_lie_on_the_curve_up_to_their_noise(tmp_path: Path) -> None:
    x = data(tmp_path, std=0.02).simulate(2000, seed=0)
    distance = Spiral()(x)

    assert x.shape == (2000, 2, 1, 1) and x.dtype == torch.float32
    # the mean of a half-normal number, of which 2000 are known to 1.7 %
    assert float(distance.mean()) == pytest.approx(0.02 * math.sqrt(2 / math.pi), rel=0.06)
    assert distance.max() < 6 * 0.02
    clean = data(tmp_path, std=0.0).simulate(500, seed=0)
    assert Spiral()(clean.double()).max() <= 2e-7  # rounding to float32


def test_data_are_spread_along_the_curve(tmp_path: Path) -> None:
    radius = torch.linalg.vector_norm(data(tmp_path).simulate(2000, seed=0).flatten(1), dim=1)

    # the length grows as the square of the radius
    share = (radius / 2.5) ** 2
    counts = torch.histc(share, bins=8, min=0, max=1)
    assert ((counts - 250).abs() <= 5 * math.sqrt(250)).all()


def test_file_says_what_it_holds_and_is_drawn_once(tmp_path: Path) -> None:
    module = data(tmp_path)
    module.prepare_data()
    module.setup("fit")
    attributes = read_attributes(module.file)

    assert module.shape == (2, 1, 1)
    assert attributes["problem"] == "spiral" and attributes["std"] == 0.01
    assert 0.005 < attributes["data_floor"] < 0.07
    check_fits(module.file, Polynomial(TERMS["line"][0]))  # which any points may be asked
    with pytest.raises(InputError, match="turns"):
        check_fits(module.file, Spiral(turns=4.0))
    with pytest.raises(InputError, match=r"0\.01.*std"):
        data(tmp_path, std=0.02).prepare_data()
