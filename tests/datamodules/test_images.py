"""Images from a folder: how they are read, scaled and refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from constraints import Constraint, Distance, Given, InputError, Periodic, TotalBrightness
from datamodules import ImageData, read_attributes


# images from a folder
class Anything(Distance):
    """Satisfied by all fields."""

    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
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
        with pytest.raises(InputError, match=rf"'9 of hash .*images.*'{found}"):
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
    with pytest.raises(InputError, match=r"1e-05"):
        images(folder, TotalBrightness(1e7), total=1e7, tolerance=1e-5).simulate(9, 0)


def test_image_that_breaks_the_constraint_is_named(folder: Path) -> None:
    tile = np.random.default_rng(0).random((4, 4))
    assert Periodic()(one(folder, np.tile(tile, (2, 2)), constraint=Periodic())[None, None]) == 0

    uneven = np.tile(tile, (2, 2))
    uneven[0, 0] += 0.1
    with pytest.raises(InputError, match=r"one\.npy'.*1e-05"):
        one(folder, uneven, constraint=Periodic())
    one(folder, uneven, constraint=Periodic(), tolerance=0.1)
    with pytest.raises(InputError, match="constraint"):
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
        ("a.npy", np.zeros((8, 8, 3)), r"\(8, 8, 3\)"),
        ("a.npy", np.eye(7), r"\b7\b.*\b8\b"),
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

    with pytest.raises(InputError, match=r"1\.png'"):
        images(folder).prepare_data()


@pytest.mark.parametrize("total", [None, 120.0])
def test_even_image_is_blank_at_any_size(folder: Path, total: float | None) -> None:
    grey = np.full((100, 100), 130, dtype=np.uint8)
    chequered = np.indices((96, 96)).sum(axis=0) % 2 + 0.1

    # averages over 100 / 48 pixels are equal but for rounding, and so are those over 2 of each
    for pixels in (grey, chequered):
        with pytest.raises(InputError, match=r"one\.npy'.*blank"):
            one(folder, pixels, size=48, total=total)
    # a step of 1 in 256 is no rounding
    grey[:50] += 1
    x = one(folder, grey, size=48, total=total)
    assert x.max() > x.min() >= 0


def test_picture_too_large_to_be_opened_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)

    with pytest.raises(InputError, match=r"\.png'.*exceeds limit"):
        images(folder).prepare_data()


def test_dark_image_has_no_total(folder: Path) -> None:
    with pytest.raises(InputError, match=r"one\.npy'.*blank"):
        one(folder, -np.eye(8), total=1.0)


def test_too_few_images_are_counted(folder: Path) -> None:
    with pytest.raises(InputError, match=r"\b10\b.*\b9\b"):
        images(folder, sizes={"train": 8, "val": 2}).prepare_data()
    with pytest.raises(InputError, match="folder"):
        images(folder / "missing").prepare_data()
    with pytest.raises(InputError, match=r"size.*\b0\b"):
        images(folder, size=0)
    with pytest.raises(InputError, match=r"\b2\b.*\b2\b"):
        images(folder, Periodic(), size=7)
