"""Total brightness: the sum, images of black holes, and images from a folder."""

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from PIL import Image
from torch import Tensor

from constraints import Constraint, InputError, Periodic, Reflection, Rotation, TotalBrightness
from datamodules import (
    BlackHoleData,
    FieldData,
    ImageData,
    check_fits,
    read_attributes,
    write_fields,
)

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


# the constraint


def test_distance_is_that_of_the_sum() -> None:
    x = torch.rand(4, 2, 3, 5, dtype=torch.float64)
    total = TotalBrightness(7.0)

    assert total.residual(x).shape == (4, 1)
    torch.testing.assert_close(total(x), (x.sum(dim=(1, 2, 3)) - 7).abs(), rtol=1e-14, atol=0)
    assert total.unknowns((2, 3, 5)) == 29
    with pytest.raises(ValueError, match=r"positive total, got -1\.0"):
        TotalBrightness(-1.0)


def test_sum_in_float32_is_as_exact_as_its_terms() -> None:
    x = torch.rand(200, 1, 64, 64, dtype=torch.float64)
    x = (120 * x / x.sum(dim=(1, 2, 3), keepdim=True)).float()
    exact = torch.tensor([math.fsum(field.flatten().tolist()) - 120 for field in x])
    found = TotalBrightness().residual(x).squeeze(1)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def test_gradient_is_right_on_noise_and_finite_at_the_total() -> None:
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(TotalBrightness(), (x,))

    x = torch.full((1, 1, 4, 4), 7.5, requires_grad=True)
    distance = TotalBrightness()(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert distance.item() == 0 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 7, 9), (3,)])
def test_sample_is_the_same_alone_and_in_a_batch(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.randn(37, *shape, dtype=dtype)
    together = TotalBrightness()(x)

    assert torch.equal(together, torch.cat([TotalBrightness()(field[None]) for field in x]))
    assert torch.equal(together[5:], TotalBrightness()(x[5:]))


def test_file_of_another_total_is_refused(tmp_path: Path) -> None:
    write_fields(tmp_path / "a.h5", {"train": torch.zeros(1, 1, 2, 2)}, {}, {})
    with pytest.raises(InputError, match="does not say its parameters, but {'total': 120.0}"):
        check_fits(tmp_path / "a.h5", TotalBrightness())

    attributes = TotalBrightness(90.0).attributes()
    write_fields(tmp_path / "a.h5", {"train": torch.zeros(1, 1, 2, 2)}, attributes, {})
    with pytest.raises(InputError, match="has 90.0 as its parameters.total, but 120.0"):
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
    with pytest.raises(InputError, match="as its ranges.diameter, but"):
        BlackHoleData(
            TotalBrightness(), 16, {"diameter": [0.3, 0.4]}, file=data.file, **options
        ).prepare_data()


def test_ranges_that_make_no_sense_are_refused() -> None:
    for points in (0, -1):
        with pytest.raises(InputError, match=f"positive points, got {points}"):
            black_holes(points)
    for ranges in ({"diametre": [0.1, 0.2]}, {"diameter": [0.2, 0.1]}, {"diameter": [0.2]}):
        with pytest.raises(InputError, match=f"for '{next(iter(ranges))}', but.*diameter, x, y"):
            black_holes(ranges=ranges)
    for ranges in ({"blur": [0.0, 0.01]}, {"speed": [0.5, 1.0]}):
        with pytest.raises(InputError, match="blur.*positive and the speed below 1"):
            black_holes(ranges=ranges)
    for ranges in ({"ring": [0.5, 0.9]}, {"glow": [-0.1, 0.1]}):
        with pytest.raises(InputError, match="ring, glow, spot shares of the total"):
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


# images from a folder


class Anything(Constraint):
    """Satisfied by all fields."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


def random_pixels(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of nine images of random pixels, 8 a side, half of them PNG."""

    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(9):
        pixels = random_pixels(k)
        if k % 2:
            Image.fromarray(pixels).save(folder / f"{k}.png")
        else:
            np.save(folder / f"{k}.npy", pixels.astype(np.float32))
    (folder / "notes.txt").write_text("not an image")
    return folder


def images(folder: Path, constraint: Constraint | None = None, **options: Any) -> ImageData:
    options = {"size": 8, "sizes": {"train": 5, "val": 2, "test": 2}, **options}
    file = options.pop("file", str(folder.parent / "images.h5"))
    return ImageData(constraint or Anything(), str(folder), file=file, **options)


def one(folder: Path, pixels: np.ndarray, **options: Any) -> Tensor:
    """The field of a single image, with shape (size, size)."""

    shutil.rmtree(folder)
    folder.mkdir()
    np.save(folder / "one.npy", pixels)
    return images(folder, sizes={"train": 1}, **options).simulate(1, 0, dtype=torch.float64)[0, 0]


def test_each_image_comes_back_once(folder: Path) -> None:
    data = images(folder, seed=3)
    data.prepare_data()
    data.prepare_data()
    shutil.rmtree(folder)  # the file is all that is needed from here
    data.prepare_data()
    found = []
    for stage in ("fit", "test"):
        data.setup(stage)
        for fields in data.fields.values():
            found += [item["x"] for item in fields.__getitems__(list(range(len(fields))))]
    wanted = set()
    for k in range(9):
        pixels = random_pixels(k)[::-1].astype(np.float64)  # y ascends, from the last row
        scaled = (pixels - pixels.min()) / (pixels.max() - pixels.min())
        wanted.add(scaled.astype(np.float32).tobytes())

    assert len(found) == 9 and {x.numpy().tobytes() for x in found} == wanted
    assert read_attributes(data.file)["source"] == "read from a folder of images"


def test_file_of_another_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    images(folder).prepare_data()
    fewer, longer = tmp_path / "fewer", tmp_path / "longer"
    shutil.copytree(folder, fewer)
    (fewer / "0.npy").unlink()
    shutil.copytree(folder, longer)
    np.save(longer / "0.npy", random_pixels(0).astype(np.float64))

    for other, found in ((fewer, "8 of hash"), (longer, "9 of hash")):
        with pytest.raises(InputError, match=rf"'9 of hash .*as its images, but '{found}.*delete"):
            images(other, sizes={"train": 5, "val": 2, "test": 2}).prepare_data()
    # files of other kinds are passed over, and so is where the folder lies
    (folder / "notes.txt").write_text("not an image either")
    images(folder.rename(tmp_path / "moved"), file=str(tmp_path / "images.h5")).prepare_data()


def test_order_is_shuffled_by_the_seed_and_nothing_else(folder: Path) -> None:
    x = images(folder).simulate(9, seed=0)

    for cut in (1, 4):
        parts = [images(folder).simulate(n, 0, start) for n, start in ((cut, 0), (9 - cut, cut))]
        assert torch.equal(x, torch.cat(parts))
    other = images(folder).simulate(9, seed=1)
    assert not torch.equal(x, other)
    assert torch.equal(x.flatten(1).unique(dim=0), other.flatten(1).unique(dim=0))


def test_square_in_the_middle_is_averaged_over_areas(folder: Path) -> None:
    pixels = np.random.default_rng(0).random((13, 30))
    middle = torch.from_numpy(pixels[:12, 9:21])[None, None]
    square = torch.from_numpy(pixels[:, 8:21])

    # 13 pixels a side are averaged with weights, and 12 of them in blocks
    cut = one(folder, pixels[:12, 9:21], size=4, total=1.0)
    blocks = F.avg_pool2d(middle, 3)[0, 0].flip(0)
    torch.testing.assert_close(cut, blocks / blocks.sum(), rtol=1e-13, atol=0)
    x = one(folder, pixels, size=5, total=1.0)
    fine = square.repeat_interleave(5, 0).repeat_interleave(5, 1)[None, None]
    blocks = F.avg_pool2d(fine, 13)[0, 0].flip(0)
    torch.testing.assert_close(x, blocks / blocks.sum(), rtol=1e-13, atol=0)


def test_top_of_an_image_is_where_y_is_largest(folder: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0, 2] = 255
    x = one(folder, pixels)
    assert x[7, 2] == x.sum() == 1

    (folder / "one.npy").unlink()
    Image.fromarray(pixels).save(folder / "one.png")
    assert torch.equal(images(folder, sizes={"train": 1}).simulate(1, 0)[0, 0].double(), x)


def test_colours_and_deep_images_are_read(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    deep = np.arange(0, 64000, 1000, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(folder / "deep.png")
    grey = np.repeat((deep // 256).astype(np.uint8)[:, :, None], 3, axis=2)
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(grey).save(folder / "compressed.JPG", quality=100)
    x = images(folder, sizes={"train": 3}).simulate(3, 0, dtype=torch.float64)
    ramp = (torch.arange(64).double() / 63).reshape(8, 8).flip(0).flatten()

    # steps of 1 in 16 bits are there; in 8 bits they are rounded down to 1 in 246
    errors = sorted((x.flatten(1) - ramp).abs().amax(dim=1).tolist())
    assert errors[0] < 1e-14 < 1e-3 < errors[1] < 1 / 246 and errors[2] < 0.03


def test_images_are_scaled_to_the_total(folder: Path) -> None:
    data = images(folder, TotalBrightness(), total=120.0)
    data.prepare_data()
    data.setup("fit")

    assert data.constraint(data.fields["train"].x.memory).max() <= 2e-6
    assert read_attributes(data.file)["parameters"] == {"total": 120.0}


def test_tolerance_grows_with_the_total(folder: Path) -> None:
    x = images(folder, TotalBrightness(1e7), total=1e7).simulate(9, 0)

    # rounding to float32 by up to 2^-24 of each pixel, more than 1e-5 in the sum
    assert 1e-5 < TotalBrightness(1e7)(x).max() <= 2**-24 * 1e7
    with pytest.raises(InputError, match=r"away from the constraint.*1e-05 is wanted"):
        images(folder, TotalBrightness(1e7), total=1e7, tolerance=1e-5).simulate(9, 0)


def test_image_that_breaks_the_constraint_is_named(folder: Path) -> None:
    tile = np.random.default_rng(0).random((4, 4))
    assert Periodic()(one(folder, np.tile(tile, (2, 2)), constraint=Periodic())[None, None]) == 0

    uneven = np.tile(tile, (2, 2))
    uneven[0, 0] += 0.1
    with pytest.raises(InputError, match=r"one\.npy' is .*e-0. away from the constraint.*1e-05"):
        one(folder, uneven, constraint=Periodic())
    one(folder, uneven, constraint=Periodic(), tolerance=0.1)
    with pytest.raises(InputError, match=r"away from the constraint"):
        images(folder, TotalBrightness(), sizes={"train": 1}).prepare_data()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"not a picture", "cannot be read"),
        ("a.jpg", b"", "cannot be read"),
        ("a.npy", b"", "cannot be read"),
        ("a.npy", np.array([["a", "b"]]), "cannot be read"),
        ("a.npy", np.full((8, 8), np.nan), "has NaN or inf"),
        ("a.npy", np.full((8, 8), 0.3), "is blank"),
        ("a.npy", np.zeros((8, 8, 3)), r"shape \(8, 8, 3\), but one of shape \(H, W\)"),
        ("a.npy", np.eye(7), "7 x 7 pixels, but at least 8"),
    ],
)
def test_bad_image_is_named(folder: Path, name: str, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        np.save(folder / name, content)

    with pytest.raises(InputError, match=f"{name}' .*{message}"):
        images(folder, sizes={"train": 10}).prepare_data()
    assert not (folder.parent / "images.h5").exists()


def test_truncated_picture_is_named(folder: Path) -> None:
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(InputError, match=r"1\.png' cannot be read"):
        images(folder).prepare_data()


@pytest.mark.parametrize("total", [None, 120.0])
def test_even_image_is_blank_at_any_size(folder: Path, total: float | None) -> None:
    grey = np.full((100, 100), 130, dtype=np.uint8)
    chequered = np.indices((96, 96)).sum(axis=0) % 2 + 0.1

    # averages over 100 / 48 pixels are equal but for rounding, and so are those over 2 of each
    for pixels in (grey, chequered):
        with pytest.raises(InputError, match=r"one\.npy' is blank"):
            one(folder, pixels, size=48, total=total)
    # a step of 1 in 256 is no rounding
    grey[:50] += 1
    x = one(folder, grey, size=48, total=total)
    assert x.max() > x.min() >= 0


def test_picture_too_large_to_be_opened_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)

    with pytest.raises(InputError, match=r"\.png' cannot be read .*exceeds limit"):
        images(folder).prepare_data()


def test_dark_image_has_no_total(folder: Path) -> None:
    with pytest.raises(InputError, match=r"one\.npy' is blank"):
        one(folder, -np.eye(8), total=1.0)


def test_too_few_images_are_counted(folder: Path) -> None:
    with pytest.raises(InputError, match=r"asks for 10 images together.* has 9 of kind"):
        images(folder, sizes={"train": 8, "val": 2}).prepare_data()
    with pytest.raises(InputError, match="There is no folder"):
        images(folder / "missing").prepare_data()
    with pytest.raises(InputError, match="positive size, total and tolerance, got 0"):
        images(folder, size=0)
    with pytest.raises(InputError, match="2 x 2 equal tiles"):
        images(folder, Periodic(), size=7)
