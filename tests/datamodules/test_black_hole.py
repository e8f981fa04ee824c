"""Simulated images of black holes: their geometry, their brightness and their files."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor

from constraints import InputError, Reflection, Rotation, TotalBrightness
from datamodules import BlackHoleData, FieldData, check_fits, read_attributes, write_fields

# the image of an even ring: no modes, no spot, no shift, seen from above and at the centre
EVEN = {
    **dict.fromkeys(("x", "y", "angle", "shift", "speed", "winding", "ring", "spot"), 0.0),
    **{f"{name}_{m}": 0.0 for name in ("amplitude", "phase") for m in (2, 3, 4)},
    **{"diameter": 0.4, "axis_ratio": 1.0, "falloff": 5.0, "blur": 0.02, "beaming": 3.0},
    **{"glow": 0.1, "glow_size": 0.8, "spot_radius": 1.2, "spot_angle": 0.0, "spot_size": 0.3},
}


def black_holes(points: int = 64, **options: Any) -> BlackHoleData:
    return BlackHoleData(TotalBrightness(), points, file="", sizes={}, **options)


def centroid(image: Tensor) -> Tensor:
    """The mean position (x, y) of the light of an image with shape (1, N, N)."""

    side = (torch.arange(image.shape[-1]).double() + 0.5) / image.shape[-1] - 0.5
    share = image[0] / image.sum()
    return torch.stack([(share.sum(dim=0) * side).sum(), (share.sum(dim=1) * side).sum()])


def test_file_of_another_total_is_refused(tmp_path: Path) -> None:
    write_fields(tmp_path / "a.h5", {"train": torch.zeros(1, 1, 2, 2)}, {}, {})
    with pytest.raises(InputError, match=r"parameters.*120\.0"):
        check_fits(tmp_path / "a.h5", TotalBrightness())

    attributes = TotalBrightness(90.0).attributes()
    write_fields(tmp_path / "a.h5", {"train": torch.zeros(1, 1, 2, 2)}, attributes, {})
    with pytest.raises(InputError, match=r"90\.0.*parameters\.total.*120\.0"):
        check_fits(tmp_path / "a.h5", TotalBrightness())


# black holes
def test_images_have_their_total_and_no_negative_pixel() -> None:
    data = black_holes()
    x = data.simulate(1000, seed=0, dtype=torch.float64)

    assert x.shape == (1000, 1, 64, 64) and (x >= 0).all()
    assert data.constraint(x).max() <= 1e-10
    # far above the rounding of each pixel, and below that of a sum in float32
    assert data.constraint(x.float()).max() <= 2e-6


def test_no_two_images_are_alike() -> None:
    x = black_holes().simulate(400, seed=0).flatten(1)
    alike = torch.corrcoef(x) - 2 * torch.eye(400)

    assert alike.max() < 0.995
    assert alike.add(torch.eye(400)).mean() < 0.6


def test_light_comes_from_the_approaching_side() -> None:
    data, steep = black_holes(), {**EVEN, "glow": 0.0, "falloff": 9.0}
    for k in range(12):
        angle = 2 * math.pi * k / 12
        for ratio in (0.75, 1.0):
            x = data.render({**steep, "angle": angle, "axis_ratio": ratio, "speed": 0.4})
            at = centroid(x)

            assert torch.linalg.vector_norm(at) > 0.03
            # the grid is of 64 pixels: a hundredth of a pixel across
            across = math.cos(angle) * at[1] - math.sin(angle) * at[0]
            assert across.abs() < 0.01 / 64


def test_shadow_moves_to_the_other_side() -> None:
    near, far = (black_holes().render({**EVEN, "shift": s})[0] for s in (0.0, 0.3))
    middle = slice(31, 33)

    # the light is thicker where the shadow has left, and thinner where it has gone
    assert far[middle, 42:50].sum() > 1.1 * near[middle, 42:50].sum()
    assert far[middle, 14:22].sum() < 0.9 * near[middle, 14:22].sum()
    # and the shadow is dark
    assert near[middle, middle].max() < 0.2 * near.max()


def test_even_ring_has_the_symmetries_of_the_grid() -> None:
    data = black_holes()
    x = data.render(EVEN)[None]

    assert Rotation(4)(x) < 1e-14 and Reflection([-1, -2])(x) < 1e-14
    # one side is brighter, yet both halves along that direction are the same
    x = data.render({**EVEN, "speed": 0.5, "shift": 0.2, "ring": 0.3, "axis_ratio": 0.8})[None]
    assert Reflection([-2])(x) < 1e-14 < 1e-3 < Reflection([-1])(x)
    # a mode of 4 lobes is turned onto itself, one of 3 is not
    four, three = (data.render({**EVEN, f"amplitude_{m}": 0.5, "winding": 2.0}) for m in (4, 3))
    assert Rotation(4)(four[None]) < 1e-14 < 1e-3 < Rotation(4)(three[None])


def test_shares_of_the_parts_add_up() -> None:
    data = black_holes()
    none, all_ = (data.render({**EVEN, "glow": 0.0, "spot": s}) for s in (0.0, 1.0))
    half = data.render({**EVEN, "glow": 0.0, "spot": 0.5})

    torch.testing.assert_close(half, (none + all_) / 2, rtol=0, atol=1e-13)
    # the spot is where its parameters say, at 1.2 radii of 0.2, but for its tail off the image
    torch.testing.assert_close(
        centroid(all_), torch.tensor([0.24, 0.0]).double(), rtol=0, atol=1e-5
    )


def test_parameters_are_uniform_in_their_ranges() -> None:
    data = black_holes(ranges={"glow": [0.1, 0.1], "falloff": [4.0, 5.0]})
    drawn = [data.parameters((0, i)) for i in range(2000)]

    assert set(drawn[0]) == set(data.ranges) == set(EVEN)
    for name, (low, high) in data.ranges.items():
        values = torch.tensor([p[name] for p in drawn], dtype=torch.float64)
        assert low <= values.min() and values.max() <= high
        # 5 standard errors of the mean of uniform numbers
        error = 5 * (high - low) / math.sqrt(12 * 2000)
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=error + 1e-12)
    assert data.ranges["falloff"] == [4.0, 5.0]


@pytest.mark.parametrize("points", [32, 33])
def test_image_depends_on_seed_and_position_alone(points: int) -> None:
    data = black_holes(points)
    x = data.simulate(12, seed=1, dtype=torch.float64)

    for cut in (1, 5, 7):
        parts = [(cut, 0), (12 - cut, cut)]
        y = [data.simulate(n, 1, start, torch.float64) for n, start in parts]
        assert torch.equal(x, torch.cat(y))
    assert not torch.isclose(x, data.simulate(12, 2).double(), rtol=1e-3).flatten(1).all(1).any()


def test_resolution_does_not_change_the_image() -> None:
    coarse, fine = (black_holes(n).simulate(20, seed=0) for n in (64, 128))
    pooled = 4 * F.avg_pool2d(fine, 2)

    # blurred to at least 0.8 pixels, the image is well sampled
    assert (coarse - pooled).abs().sum(dim=(1, 2, 3)).max() < 0.03 * 120


def test_same_seed_same_file(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options: dict[str, Any] = {"sizes": {"train": 4, "val": 2}, "seed": seed}
        data = BlackHoleData(TotalBrightness(), 16, file=str(tmp_path / name), **options)
        data.prepare_data()
        hashes.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    data.setup("fit")
    found = read_attributes(data.file)

    assert hashes[0] == hashes[1] != hashes[2]
    assert found["parameters"] == {"total": 120.0} and found["problem"] == "black_hole"
    assert found["ranges"]["diameter"] == [0.26, 0.46] and found["data_floor"] <= 2e-6
    with pytest.raises(InputError, match=r"ranges\.diameter"):
        BlackHoleData(
            TotalBrightness(), 16, {"diameter": [0.3, 0.4]}, file=data.file, **options
        ).prepare_data()


def test_ranges_that_make_no_sense_are_refused() -> None:
    for points in (0, -1):
        with pytest.raises(InputError, match=rf"points.*{points}\b"):
            black_holes(points)
    for ranges in ({"diametre": [0.1, 0.2]}, {"diameter": [0.2, 0.1]}, {"diameter": [0.2]}):
        with pytest.raises(InputError, match=f"'{next(iter(ranges))}'"):
            black_holes(ranges=ranges)
    for ranges in ({"blur": [0.0, 0.01]}, {"speed": [0.5, 1.0]}):
        with pytest.raises(InputError, match="speed"):
            black_holes(ranges=ranges)
    for ranges in ({"ring": [0.5, 0.9]}, {"glow": [-0.1, 0.1]}):
        with pytest.raises(InputError, match="ring, glow, spot"):
            black_holes(ranges=ranges)


def test_command_line_builds_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FieldData, "data")
    args = ["--data=BlackHoleData", "--data.file=a", "--data.sizes={}"]
    args += ["--data.constraint=TotalBrightness", "--data.constraint.total=100"]
    args += ['--data.ranges={"diameter": [0.3, 0.3]}']
    data = parser.instantiate_classes(parser.parse_args(args)).data

    assert isinstance(data, BlackHoleData) and data.ranges["diameter"] == [0.3, 0.3]
    assert data.constraint.attributes() == {"parameters": {"total": 100.0}}
