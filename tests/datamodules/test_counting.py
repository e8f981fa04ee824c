"""Images for the training of a counter: their numbers, their noise and their refusals."""

import math
from typing import Any

import pytest
import torch

from constraints import InputError
from datamodules import CountingData


# endless images
def test_image_is_the_same_alone_and_by_another_process() -> None:
    data = CountingData(points=32, highest=5, batch_size=3)
    batch = next(iter(data.train_dataloader()))
    apart = CountingData(points=32, highest=5, batch_size=3, num_workers=1)
    other = next(iter(apart.train_dataloader()))

    assert batch["x"].shape == batch["density"].shape == (3, 1, 32, 32)
    for key, values in batch.items():
        assert torch.equal(values, other[key])
        for row, i in enumerate(batch["index"].tolist()):
            item = data.skies["train"][i]
            assert torch.equal(torch.as_tensor(item[key]), values[row])


def test_numbers_of_galaxies_are_equally_frequent() -> None:
    data = CountingData(lowest=1, highest=3, points=24, sizes=(300, 1))
    items = [data.skies["val"][i] for i in range(300)]
    shares = [sum(item["n"] == n for item in items) / 300 for n in (1, 2, 3)]

    assert sum(shares) == 1
    assert shares == pytest.approx([1 / 3] * 3, abs=4 * math.sqrt(2 / 9 / 300))
    for item in items:
        assert item["density"].sum() == pytest.approx(item["n"], rel=1e-5)
        assert item["x"].min() == 0 and item["x"].max() == 1  # clean


def test_share_of_training_images_is_spoilt() -> None:
    clean, half, all_ = (
        CountingData(points=24, highest=5, spoilt=share).skies["train"] for share in (0, 0.5, 1)
    )
    count = sum(half[i]["x"].max() != 1 for i in range(200))

    assert count == pytest.approx(100, abs=4 * math.sqrt(50))
    assert all(clean[i]["x"].max() == 1 for i in range(20))
    for i in range(20):
        before, after = clean[i], all_[i]
        assert not torch.equal(before["x"], after["x"])
        assert before["n"] == after["n"] and torch.equal(before["density"], after["density"])


def test_numbers_that_make_no_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"highest.*\b5\b.*\b4\b"):
        CountingData(lowest=5, highest=4)


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"sizes": (0, 0)}, r"sizes.*0, 0"),
        ({"sizes": (4, -1)}, r"sizes.*-1"),
        ({"points": 0}, r"\b0\b"),
        ({"spoilt": 1.5}, r"1\.5"),
        ({"spoilt": -0.1}, r"-0\.1"),
        ({"spoilt": math.nan}, "nan"),
    ],
)
def test_images_that_make_no_sense_are_refused(options: dict[str, Any], got: str) -> None:
    with pytest.raises(InputError, match=f"CountingData.*{got}"):
        CountingData(**options)
