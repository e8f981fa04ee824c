"""Patterns simulated for symmetries: their covariance, their symmetry and their file."""

import math
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from constraints import InputError, Periodic, Reflection, Rotation
from datamodules import FieldData, PeriodicData, check_fits, read_attributes
from tests.constraints.symmetries import Symmetry
from tests.constraints.symmetries import symmetry as symmetry  # a fixture


def patterns(constraint: Symmetry, points: int = 64, **options: float) -> PeriodicData:
    return PeriodicData(constraint, points, file="", sizes={}, **options)  # type: ignore[arg-type]


# the data
def test_kernel_has_the_root_that_draws_it() -> None:
    data = patterns(Periodic([2, 4]), 64)
    for root, n in zip(data.roots, (32, 16), strict=True):
        r = (torch.arange(n)[:, None] - torch.arange(n)).double() / n
        kernel = torch.exp(-2 * (math.pi * r).sin() ** 2 / 0.7**2)

        # eigenvalues below rounding, 1e-15 of the largest, are all that is lost
        torch.testing.assert_close(root @ root, kernel, rtol=0, atol=1e-13)


def test_process_has_the_covariance_of_its_kernel() -> None:
    n = 4000
    data = patterns(Periodic(), 16, sigma=0.9, length=1.1)
    u = torch.stack([data.process((0, i)) for i in range(n)]).flatten(1)
    at = torch.cartesian_prod(torch.arange(8), torch.arange(8)).double() / 8
    squares = (math.pi * (at[:, None] - at)).sin().square().sum(dim=-1)
    kernel = 0.9**2 * torch.exp(-2 * squares / 1.1**2)

    # 5 standard errors of each of the 64 means and 64 x 64 covariances of normal numbers
    assert u.mean(dim=0).abs().max() <= 5 * 0.9 / n**0.5
    error = (0.9**4 + kernel**2).sqrt() / n**0.5
    assert ((u.T @ u / n - kernel).abs() <= 5 * error).all()


def test_simulated_patterns_satisfy_their_constraint_exactly(symmetry: Symmetry) -> None:
    n = 1000 if isinstance(symmetry, Periodic) else 300
    x = patterns(symmetry, 36).simulate(n, seed=0)

    assert x.shape == (n, 1, 36, 36) and x.dtype == torch.float32
    assert not symmetry(x).any()
    assert ((x == 0) | (x == 1)).all()
    # black, or nearly alike, are a few at most
    assert len(x.flatten(1).unique(dim=0)) > 0.85 * n


def test_share_of_white_is_that_of_a_normal_number() -> None:
    white = patterns(Periodic()).simulate(1000, seed=0).mean(dim=(1, 2, 3))
    wanted = 0.5 * math.erfc(0.5 / 0.7 / 2**0.5)

    assert wanted == pytest.approx(0.2375, abs=1e-4)
    assert float(white.mean()) == pytest.approx(wanted, abs=5 * float(white.std()) / 1000**0.5)
    assert white.min() > 0  # no tile is all black


def test_patterns_are_blobs_that_go_on_across_the_edges(symmetry: Symmetry) -> None:
    x = patterns(symmetry, 60).simulate(300, seed=0)
    change = [(x != x.roll(1, a)).float().mean(dim=(0, 1, -3 - a)) for a in (-1, -2)]

    # independent pixels would differ from their neighbours in 36 % of the cases
    for along in change:
        assert along.mean() < 0.15
        assert along[0] < 3 * along.mean()  # last and first pixel


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_pattern_depends_on_seed_and_position_alone(symmetry: Symmetry, cut: int) -> None:
    data = patterns(symmetry, 36)
    x = data.simulate(8, seed=1)

    assert torch.equal(x, torch.cat([data.simulate(cut, 1), data.simulate(8 - cut, 1, start=cut)]))
    assert not torch.isclose(x, data.simulate(8, seed=2)).flatten(1).all(dim=1).any()


def test_file_fits_its_symmetry_and_no_other(tmp_path: Path) -> None:
    file = str(tmp_path / "a.h5")
    data = PeriodicData(Periodic(), 12, file=file, sizes={"train": 6, "val": 2})
    data.prepare_data()
    data.setup("fit")
    found = read_attributes(file)

    assert data.shape == (1, 12, 12) and found["data_floor"] == 0
    assert found.items() >= {**data.constraint.attributes(), **data.describe()}.items()
    with pytest.raises(InputError, match=r"\[2, 2\].*parameters\.tiles.*\[2, 3\]"):
        check_fits(file, Periodic([2, 3]))
    with pytest.raises(InputError, match=r"parameters\.mirrored"):
        check_fits(file, Reflection())
    with pytest.raises(InputError, match=r"0\.7.*sigma.*0\.8"):
        PeriodicData(Periodic(), 12, 0.8, file=file, sizes=data.sizes).prepare_data()


def test_patterns_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"sigma.*0\.0"):
        patterns(Periodic(), sigma=0.0)
    for points in (0, -2):
        with pytest.raises(InputError, match=rf"points.*{points}\b"):
            patterns(Rotation(2), points)
    with pytest.raises(InputError, match=r"\b2\b.*\b3\b"):
        patterns(Periodic([2, 3]), 64)


def test_command_line_builds_them() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FieldData, "data")
    args = ["--data=PeriodicData", "--data.file=a", "--data.sizes={}", "--data.points=12"]
    for options in (
        ["--data.constraint=Periodic", "--data.constraint.tiles=[2, 3]"],
        ["--data.constraint=Rotation", "--data.constraint.order=2"],
    ):
        data = parser.instantiate_classes(parser.parse_args([*args, *options])).data
        assert isinstance(data, PeriodicData) and data.points == 12
