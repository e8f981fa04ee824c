"""Data modules of fields: simulation by key, and files of one's own."""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from constraints import Burgers, Divergence, InputError
from datamodules import (
    BurgersData,
    FieldData,
    KolmogorovData,
    check_fits,
    read_attributes,
    write_fields,
)
from tests.datamodules.sources import Anything, Tiny, burgers


def test_file_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 1, 3))
    splits = {"train": x, "val": (6, iter([x[:4], torch.tensor(x[4:])]))}
    write_fields(tmp_path / "a.h5", splits, {"axes": ["x"], "channels": ["u"]}, {})
    data = FieldData(Anything(), str(tmp_path / "a.h5"), batch_size=4)
    data.prepare_data()
    data.setup("fit")
    assert data.shape == (1, 3)
    for split in splits:
        got = torch.stack([data.fields[split][i]["x"] for i in range(6)])
        assert torch.equal(got, torch.tensor(x).float())


def test_file_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere\.h5"):
        FieldData(Anything(), "nowhere.h5").setup("fit")
    with pytest.raises(InputError, match=r"nowhere\.h5.*`sizes`"):
        Tiny(Anything(), "nowhere.h5").prepare_data()


def test_boundary_and_channels_are_known_before_and_after_simulation(tmp_path: Path) -> None:
    data = burgers(tmp_path / "a.h5")
    for _ in range(2):
        assert data.boundary == {"x": "periodic", "t": "none"}
        assert list(data.boundary) == ["x", "t"] and data.channels == 1
        data.prepare_data()
    file = FieldData(Anything(), data.file)
    assert file.boundary == data.boundary and file.channels == 1
    flow = KolmogorovData(Divergence(), file=str(tmp_path / "b.h5"), frames=3)
    assert flow.boundary == {"x": "periodic", "y": "periodic"} and flow.channels == 6


def test_boundary_and_channels_may_be_unknown(tmp_path: Path) -> None:
    data = FieldData(Anything(), str(tmp_path / "a.h5"))
    assert data.boundary is None and data.channels is None
    write_fields(tmp_path / "a.h5", {"val": np.zeros((2, 3, 4, 5))}, {}, {})
    assert data.boundary is None and data.channels == 3


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        burgers(tmp_path / name, seed=seed).prepare_data()
        hashes.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())

    assert hashes[0] == hashes[1] != hashes[2]


def test_file_says_what_it_holds(tmp_path: Path) -> None:
    data = burgers(tmp_path / "new" / "fields.h5", seed=3)
    data.prepare_data()
    found = read_attributes(data.file)

    assert found.items() >= {**data.constraint.attributes(), **data.describe()}.items()
    assert found["schema"] == "namm-field/1" and found["seed"] == 3
    assert found["sizes"] == {"train": 5, "val": 3} and found["redrawn"] == 0
    assert 0 < found["data_floor"] <= 1e-6
    with h5py.File(data.file) as file:
        x = {split: file[f"{split}/x"] for split in ("train", "val")}
        assert all(v.dtype == np.float32 and v.chunks is None for v in x.values())
        assert dict(file["coords/t"].attrs) == {"units": "time"}
        assert file["coords/t"][:].tolist() == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.625])
        digest = hashlib.sha256(x["train"][:].tobytes() + x["val"][:].tobytes()).hexdigest()
        largest = data.constraint(torch.from_numpy(np.concatenate([v[:] for v in x.values()])))
        assert not set(map(bytes, x["train"][:])) & set(map(bytes, x["val"][:]))
    assert found["sha256"] == digest and found["data_floor"] == pytest.approx(largest.max().item())


def test_field_that_is_not_finite_is_drawn_again(tmp_path: Path) -> None:
    data = Tiny(Anything(), file=str(tmp_path / "a.h5"), sizes={"train": 6})
    clean = data.simulate(6, seed=0)
    data.bad = (1, 4)
    x = data.simulate(6, seed=0)
    data.prepare_data()

    assert torch.isfinite(x).all()
    assert [i for i in range(6) if not torch.equal(x[i], clean[i])] == [1, 4]
    assert torch.equal(x[4:5], data.simulate(1, seed=0, start=4))
    assert read_attributes(data.file)["redrawn"] == 2


def test_unstable_solver_is_refused(tmp_path: Path) -> None:
    data = burgers(tmp_path / "a.h5", constraint=Burgers(viscosity=50.0), frames=64)

    with pytest.raises(InputError, match="unstable"):
        data.prepare_data()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"0\b.*seed.*\b1\b"),
        ({"sizes": {"train": 6}}, r"5\b.*sizes\.train.*\b6\b"),
        ({"frames": 6}, r"5\b.*frames.*\b6\b"),
        ({"constraint": Burgers(dt=0.5)}, r"0\.125.*parameters\.dt.*0\.5"),
    ],
)
def test_file_simulated_otherwise_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "a.h5"
    burgers(path).prepare_data()
    before = path.read_bytes()
    burgers(path).prepare_data()

    with pytest.raises(InputError, match=message):
        burgers(path, **change).prepare_data()
    assert path.read_bytes() == before


# the schema
def test_reference_is_accepted(reference: Path) -> None:
    data = BurgersData(Burgers("euler"), file=str(reference), sizes={})
    data.prepare_data()
    data.setup("test")
    (batch,) = data.test_dataloader()

    assert data.shape == batch["x"].shape[1:] == (1, 64, 64)
    assert data.constraint(batch["x"]).max() <= 1e-7
    assert data.sha256 == hashlib.sha256(batch["x"].numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Burgers("crank_nicolson"), r"'euler'.*parameters\.scheme.*'crank_nicolson'"),
        (Burgers(viscosity=0.1), r"0\.05.*parameters\.viscosity.*0\.1"),
    ],
)
def test_reference_is_refused_by_another_equation(
    reference: Path, constraint: Burgers, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_fits(reference, constraint)


@pytest.mark.parametrize("sizes", [{"training": 5}, {"train": 0}])
def test_sizes_that_make_no_sense_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="sizes"):
        Tiny(Anything(), file="", sizes=sizes)
