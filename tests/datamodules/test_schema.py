"""Files of fields: what they say, whom they fit, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import Burgers, InputError
from datamodules import (
    BurgersData,
    FieldDataset,
    check_fits,
    hash_fields,
    read_attributes,
    write_fields,
)
from datamodules.schema import read_shape
from tests.datamodules.sources import Anything, burgers, plain, write
from tests.disk import small_disk


def test_missing_split_is_refused(reference: Path) -> None:
    with pytest.raises(InputError, match=r"/train/x.*test"):
        BurgersData(Burgers(), file=str(reference), sizes={}).setup("fit")


def test_values_within_rounding_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    burgers(path).prepare_data()
    check_fits(path, Burgers(viscosity=0.05 * (1 + 1e-12)))

    with pytest.raises(InputError, match="viscosity"):
        check_fits(path, Burgers(viscosity=0.05 * (1 + 1e-6)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3), r"\(2, 3\).*'train'"),
        (torch.zeros(2, 2, 8, 8), r"Burgers.*\(1, 2, 8, 8\)"),
        (torch.zeros(2, 1, 8), r"Burgers.*\(1, 1, 8\)"),
    ],
)
def test_other_shape_is_refused(tmp_path: Path, x: Tensor, message: str) -> None:
    write_fields(tmp_path / "a.h5", {"train": x}, Burgers().attributes(), {})

    with pytest.raises(InputError, match=message):
        check_fits(tmp_path / "a.h5", Burgers())


def test_splits_of_different_shapes_are_refused(tmp_path: Path) -> None:
    fields = {"train": torch.zeros(2, 1, 3), "val": torch.zeros(2, 1, 4)}
    write_fields(tmp_path / "a.h5", fields, {}, {})

    with pytest.raises(InputError, match=r"\(1, 4\).*'val'.*\(1, 3\)"):
        check_fits(tmp_path / "a.h5", Anything())


def test_integers_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/x"] = np.zeros((2, 1, 3), dtype=int)
        file.attrs["schema"] = "namm-field/1"

    with pytest.raises(InputError, match="int64"):
        check_fits(tmp_path / "a.h5", Anything())


def test_file_without_attributes_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/x"] = np.zeros((2, 1, 8, 8), dtype=np.float32)

    with pytest.raises(InputError, match="schema"):
        check_fits(tmp_path / "a.h5", Burgers())


def test_file_of_no_problem_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"problem.*'burgers'"):
        check_fits(write(tmp_path / "a.h5", train=2), Burgers())


@pytest.mark.parametrize("limit", [0, 10**9])
def test_field_with_nan_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("datamodules.dataset.IN_MEMORY", limit)
    write_fields(tmp_path / "a.h5", {"train": torch.zeros(5, 1, 3)}, {}, {})
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["train/x"][2:4, 0, 1] = float("nan")

    with pytest.raises(InputError, match=r"\b2\b.*/train/x"):
        fields = FieldDataset(tmp_path / "a.h5", "train")
        fields.__getitems__([4, 3, 2])


def test_what_is_no_file_of_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("not HDF5")

    with pytest.raises(InputError, match="HDF5"):
        plain(tmp_path / "a.h5").setup("fit")
    with pytest.raises(InputError, match="no file"):
        plain(tmp_path / "b.h5").setup("fit")
    with pytest.raises(InputError, match="sizes"):
        plain(tmp_path / "b.h5").prepare_data()


def test_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[Tensor]:
        yield torch.zeros(2, 1, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_fields(tmp_path / "a.h5", {"train": (4, chunks())}, {}, {})
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match="written"):
        write(tmp_path / "file" / "a.h5", train=2)


def test_chunks_and_whole_are_the_same_file(tmp_path: Path) -> None:
    x = torch.arange(12.0).view(4, 1, 3)
    write_fields(tmp_path / "a.h5", {"val": x[:2], "train": x}, {"axes": ["x"]}, {})
    write_fields(
        tmp_path / "b.h5", {"train": (4, iter(x.split(3))), "val": x[:2]}, {"axes": ["x"]}, {}
    )

    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5", "a") as file:
        said = file.attrs.pop("sha256")
    assert hash_fields(tmp_path / "a.h5") == said


def test_fields_changed_after_they_were_written_are_refused(tmp_path: Path) -> None:
    data = burgers(tmp_path / "a.h5")
    data.prepare_data()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["train/x"][0] *= 2

    with pytest.raises(InputError, match="changed"):
        data.setup("fit")


def test_coordinates_that_do_not_fit_the_fields_are_refused(tmp_path: Path) -> None:
    data = burgers(tmp_path / "a.h5")
    data.prepare_data()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["coords/t"]
        file["coords/t"] = np.arange(3.0)

    with pytest.raises(InputError, match=r"\b3\b.*\bt\b"):
        data.setup("fit")


def test_full_disk_leaves_the_fields_that_were_there(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, train=4, val=4)
    before = path.read_bytes()
    chunks = (torch.zeros(50, 1, 16, 16) for _ in range(10))
    with small_disk(200_000), pytest.raises(InputError, match=f"{path}.*cannot be written"):
        write_fields(path, {"train": (500, chunks)}, {}, {})

    assert next(chunks, None) is not None  # the rest is not drawn
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_attributes_of_numpy_come_back_as_numbers(tmp_path: Path) -> None:
    attributes = {"a": np.float64(1.5), "b": [np.float32(2)], "c": {"d": np.arange(3)}, "e": True}
    write_fields(tmp_path / "a.h5", {"train": torch.zeros(2, 1, 4)}, attributes, {})
    found = read_attributes(tmp_path / "a.h5")
    assert {key: found[key] for key in attributes} == {
        "a": 1.5,
        "b": [2.0],
        "c": {"d": [0, 1, 2]},
        "e": True,
    }


@pytest.mark.parametrize("value", [None, Path("a"), print, 1j, [{1, 2}], {"a": [None, b"a"]}])
def test_attribute_of_no_number_or_text_is_named(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The attribute 'note' has a "):
        write_fields(tmp_path / "a.h5", {"train": torch.zeros(2, 1, 4)}, {"note": value}, {})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "fields", [torch.full((2, 1, 4), torch.nan), torch.zeros(0, 1), np.ones(3)]
)
def test_fields_that_are_no_fields_are_named(fields: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split 'val' must be numbers"):
        write_fields(tmp_path / "a.h5", {"train": torch.zeros(2, 1, 4), "val": fields}, {}, {})
    assert not [*tmp_path.iterdir()]


def test_chunks_of_another_number_are_refused(tmp_path: Path) -> None:
    for rows in (1, 2):
        with pytest.raises(InputError, match=rf"3 fields, but {rows} came"):
            chunks = (3, [torch.zeros(rows, 1, 4)])
            write_fields(tmp_path / "a.h5", {"train": chunks}, {}, {})
    assert not [*tmp_path.iterdir()]


def test_file_without_fields_has_no_shape(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["schema"] = "namm-field/1"
    with pytest.raises(InputError, match="holds no fields"):
        read_shape(tmp_path / "a.h5")


def test_text_in_brackets_stays_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["note"] = "[about the data"
        file.attrs["bytes"] = np.bytes_(b'{"a": 1}')
    found = read_attributes(tmp_path / "a.h5")
    assert found["note"] == "[about the data" and found["bytes"] == {"a": 1}
