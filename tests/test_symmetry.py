"""Images that a group of moves does not change, and the patterns simulated for them."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from constraints import InputError, Periodic, Reflection, Rotation, noise
from datamodules import FieldData, PeriodicData, check_fits, read_attributes

Symmetry = Periodic | Reflection | Rotation
SYMMETRIES: list[Symmetry] = [
    Periodic(),
    Periodic([1, 3]),
    Periodic([2, 3]),
    Reflection([-1]),
    Reflection([-2]),
    Reflection([-1, -2]),
    Rotation(2),
    Rotation(4),
]


@pytest.fixture(params=SYMMETRIES, ids=lambda s: f"{type(s).__name__}{s.attributes()}")
def symmetry(request: pytest.FixtureRequest) -> Symmetry:
    return request.param


def white(n: int, *shape: int) -> Tensor:
    return noise([(0, i) for i in range(n)], shape).double()


def patterns(constraint: Symmetry, points: int = 64, **options: float) -> PeriodicData:
    return PeriodicData(constraint, points, file="", sizes={}, **options)  # type: ignore[arg-type]


# the constraints


@pytest.mark.parametrize("tiles", [(2, 2), (1, 3), (4, 2)])
def test_distance_of_tiles_is_that_of_the_paper(tiles: Sequence[int]) -> None:
    rows, columns = tiles
    x = white(5, 2, 8, 12)
    height, width = 8 // rows, 12 // columns
    wanted = torch.zeros(5, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            tile = x[..., i * height : (i + 1) * height, j * width : (j + 1) * width]
            repeated = tile.repeat(1, 1, rows, columns)
            wanted += (x - repeated).abs().mean(dim=(1, 2, 3))

    torch.testing.assert_close(Periodic(tiles)(x), wanted, rtol=1e-13, atol=0)


def test_distance_of_one_reflection_or_turn_is_the_mean_change() -> None:
    x = white(3, 2, 6, 6)

    def change(*images: Tensor) -> Tensor:
        return torch.stack([(x - image).abs().mean(dim=(1, 2, 3)) for image in images]).sum(0)

    for found, wanted in (
        (Reflection([-1]), change(x.flip(-1))),
        (Reflection([-1, -2]), change(x.flip(-1), x.flip(-2), x.flip(-1, -2))),
        (Rotation(2), change(x.flip(-1, -2))),
        (Rotation(4), change(*(x.rot90(k, (2, 3)) for k in (1, 2, 3)))),
    ):
        torch.testing.assert_close(found(x), wanted, rtol=1e-13, atol=0)


def test_orbit_is_one_of_a_group(symmetry: Symmetry) -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    orbit = {tuple(image.flatten().tolist()) for image in symmetry.orbit(x)[0]}

    assert len(orbit) == symmetry.orbit(x).shape[1]
    assert torch.equal(symmetry.orbit(x)[:, 0], x)
    # to move what was moved leads to the same images
    for image in symmetry.orbit(x).unbind(dim=1):
        assert {tuple(y.flatten().tolist()) for y in symmetry.orbit(image)[0]} == orbit


def test_average_is_the_nearest_symmetric_field(symmetry: Symmetry) -> None:
    x = white(3, 2, 6, 6)
    average = symmetry.average(x)
    other = symmetry.average(white(6, 2, 6, 6)[3:])

    assert symmetry(average).max() <= 1e-14
    torch.testing.assert_close(symmetry.average(average), average, rtol=0, atol=1e-15)
    # the way to it is normal to all symmetric fields
    assert ((x - average) * other).sum(dim=(1, 2, 3)).abs().max() <= 1e-13
    assert (symmetry(x) > 0.3).all()


def test_one_step_of_least_squares_leads_to_the_average(symmetry: Symmetry) -> None:
    x = white(1, 1, 6, 6)
    jacobian = torch.autograd.functional.jacobian(symmetry.residual, x).reshape(-1, 36)
    step = torch.linalg.pinv(jacobian) @ symmetry.residual(x).flatten()

    torch.testing.assert_close(x - step.view_as(x), symmetry.average(x), rtol=0, atol=1e-13)


def test_unfolded_field_is_symmetric_exactly(symmetry: Symmetry) -> None:
    x = white(4, 2, 6, 6).float()
    unfolded = symmetry.unfold(x)

    assert not symmetry(unfolded).any()
    assert torch.equal(symmetry.unfold(unfolded), unfolded)
    assert torch.equal(unfolded[..., 0, 0], x[..., 0, 0])
    pieces = [len(field.unique()) for field in unfolded[:, :1]]
    assert pieces == [symmetry.unknowns((1, 6, 6))] * 4


@pytest.mark.parametrize(
    ("constraint", "shape", "unknowns"),
    [
        (Periodic([2, 4]), (3, 8, 8), 3 * 4 * 2),
        (Reflection([-1]), (1, 4, 5), 4 * 3),
        (Reflection([-2]), (1, 4, 5), 2 * 5),
        (Reflection([-1, -2]), (2, 5, 5), 2 * 3 * 3),
        (Rotation(2), (1, 5, 4), 10),
        (Rotation(4), (1, 5, 5), 6 + 1),
        (Rotation(4), (1, 8, 8), 16),
    ],
)
def test_unknowns_are_the_orbits(
    constraint: Symmetry, shape: tuple[int, ...], unknowns: int
) -> None:
    assert constraint.unknowns(shape) == unknowns


def test_gradient_is_right_on_noise_and_finite_on_data(symmetry: Symmetry) -> None:
    x = white(2, 1, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(symmetry, (x,))

    x = symmetry.unfold(x.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(symmetry(x).sum(), x)
    assert torch.isfinite(gradient).all()


def test_samples_are_independent(symmetry: Symmetry) -> None:
    x = white(5, 1, 12, 12).float()
    together = symmetry(x)
    x[1] = float("nan")

    assert torch.equal(
        together, torch.cat([symmetry(field[None]) for field in white(5, 1, 12, 12).float()])
    )
    assert torch.equal(symmetry(x)[2:], together[2:]) and symmetry(x)[1].isnan()


@pytest.mark.parametrize(
    ("constraint", "shape", "message"),
    [
        (Periodic([2, 3]), (1, 1, 6, 8), r"2 x 3 equal tiles, got \(1, 1, 6, 8\)"),
        (Periodic(), (1, 6, 6), r"\(B, C, H, W\).*got \(1, 6, 6\)"),
        (Reflection(), (1, 6, 6), r"\(B, C, H, W\), got \(1, 6, 6\)"),
        (Rotation(4), (1, 1, 6, 8), r"squares.*got \(1, 1, 6, 8\)"),
        (Rotation(2), (6, 8), r"\(B, C, H, W\), got \(6, 8\)"),
    ],
)
def test_shape_that_cannot_be_judged_is_refused(
    constraint: Symmetry, shape: tuple[int, ...], message: str
) -> None:
    constraint.check_shape(torch.zeros(1, 2, 6, 6))
    Rotation(2).check_shape(torch.zeros(1, 1, 6, 8))

    with pytest.raises(InputError, match=message):
        constraint.check_shape(torch.zeros(shape))


def test_groups_that_do_not_exist_are_refused() -> None:
    for tiles in ([2], [1, 1], [0, 2], [2, 2, 2]):
        with pytest.raises(ValueError, match=f"got \\[{str(tiles)[1:-1]}\\]"):
            Periodic(tiles)
    for axes in ([], [0], [-1, -1], [-3]):
        with pytest.raises(ValueError, match="the axes -1, -2 or both"):
            Reflection(axes)
    with pytest.raises(ValueError, match="got 3"):
        Rotation(3)


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
    with pytest.raises(InputError, match=r"\[2, 2\] as its parameters.tiles, but \[2, 3\]"):
        check_fits(file, Periodic([2, 3]))
    with pytest.raises(InputError, match="does not say its parameters.mirrored, but"):
        check_fits(file, Reflection())
    with pytest.raises(InputError, match="has 0.7 as its sigma, but 0.8 is wanted"):
        PeriodicData(Periodic(), 12, 0.8, file=file, sizes=data.sizes).prepare_data()


def test_patterns_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"points, sigma and length, got 64, 0.0 and 0.7"):
        patterns(Periodic(), sigma=0.0)
    for points in (0, -2):
        with pytest.raises(InputError, match=f"positive points.* got {points}, 0.7"):
            patterns(Rotation(2), points)
    with pytest.raises(InputError, match="2 x 3 equal tiles"):
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
