"""Data modules: the schema, its refusals, simulation by key, and the order of batches."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import lightning as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from constraints import Burgers, Constraint, InputError, noise
from datamodules import (
    BurgersData,
    FieldData,
    FieldDataset,
    KeyedBatches,
    check_fits,
    hash_fields,
    read_attributes,
    write_fields,
)

SHORT = {"points": 16, "frames": 5}


class Tiny(FieldData):
    """White noise on 3 points, of which some fields are not finite when they are first drawn."""

    bad: tuple[int, ...] = ()

    def draw(self, keys: Sequence[tuple[int | str, ...]]) -> Tensor:
        x = noise(keys, (1, 3))
        for row, (_, _, index, attempt) in enumerate(keys):
            if index in self.bad and attempt == 0:
                x[row, 0, 1] = float("nan")
        return x

    def coords(self) -> dict[str, tuple[Sequence[float] | np.ndarray, str]]:
        return {"x": ([0.0, 0.5, 1.0], "length")}

    def describe(self) -> dict[str, Any]:
        return {"axes": ["x"], "channels": ["u"]}


class Anything(Constraint):
    """Satisfied by all fields."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


def burgers(path: Path, **kwargs: Any) -> BurgersData:
    options = {"sizes": {"train": 5, "val": 3}, **SHORT, **kwargs}
    return BurgersData(options.pop("constraint", Burgers()), file=str(path), **options)


def write(path: Path, **sizes: int) -> Path:
    """Writes a file whose field i of a split is filled with the number i."""
    fields = {
        split: torch.arange(n).float().view(n, 1, 1).expand(n, 1, 3) for split, n in sizes.items()
    }
    write_fields(path, fields, {}, {})
    return path


def plain(path: Path, **kwargs: Any) -> Tiny:
    return Tiny(Anything(), file=str(path), sizes={}, **kwargs)


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


@pytest.mark.parametrize("options", [{"sizes": {"train": 4}}, {"file": "nowhere.h5"}])
def test_plain_data_module_simulates_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    file = str(write(tmp_path / "a.h5", train=4))
    with pytest.raises(InputError, match="simulates nothing: give a file that exists, no `sizes`"):
        FieldData(Anything(), **{"file": file, **options}).prepare_data()


def indices(loader: DataLoader) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


# simulation


@pytest.mark.parametrize("scheme", ["euler", "crank_nicolson"])
def test_simulated_fields_satisfy_their_constraint(scheme: Any) -> None:
    n = 200 if scheme == "euler" else 10
    data = BurgersData(Burgers(scheme), file="", sizes={}, points=32, frames=32)
    x = data.simulate(n, seed=0)

    assert x.shape == (n, 1, 32, 32) and x.dtype == torch.float32
    assert data.constraint(x).max() <= 1e-6


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_field_depends_on_seed_and_position_alone(cut: int) -> None:
    data = BurgersData(Burgers(), file="", sizes={})
    x = data.simulate(8, seed=1)

    assert torch.equal(x, torch.cat([data.simulate(cut, 1), data.simulate(8 - cut, 1, start=cut)]))
    assert not torch.isclose(x, data.simulate(8, seed=2)).flatten(1).all(dim=1).any()


def test_first_frame_is_one_step_from_a_normalised_initial_condition() -> None:
    class Still(Burgers):
        def step(self, u: Tensor) -> Tensor:
            return u

    x = BurgersData(Still(), file="", sizes={}, frames=2).simulate(50, seed=0)

    assert torch.equal(x[..., 0], x[..., 1])
    assert torch.equal(x.amin(dim=(1, 2, 3)), torch.zeros(50))
    assert torch.equal(x.amax(dim=(1, 2, 3)), torch.ones(50))
    # Matérn-3/2: neighbours at r = 2/63 correlate by (1 + a) exp(-a), a = sqrt(3) r / 0.2 = 0.275
    u = x[:, 0, :, 0]
    assert torch.corrcoef(torch.stack([u[:, 1:].flatten(), u[:, :-1].flatten()]))[0, 1] > 0.95


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
        ({"seed": 1}, "has 0 as its seed, but 1 is wanted"),
        ({"sizes": {"train": 6}}, "has 5 as its sizes.train, but 6 is wanted"),
        ({"frames": 6}, "has 5 as its frames, but 6 is wanted"),
        ({"constraint": Burgers(dt=0.5)}, "has 0.125 as its parameters.dt, but 0.5 is wanted"),
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
        (Burgers("crank_nicolson"), "'euler' as its parameters.scheme, but 'crank_nicolson'"),
        (Burgers(viscosity=0.1), "0.05 as its parameters.viscosity, but 0.1"),
    ],
)
def test_reference_is_refused_by_another_equation(
    reference: Path, constraint: Burgers, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_fits(reference, constraint)


def test_missing_split_is_refused(reference: Path) -> None:
    with pytest.raises(InputError, match=r"no /train/x.*its splits: test"):
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
        (torch.zeros(2, 3), r"shape \(2, 3\) in split 'train'"),
        (torch.zeros(2, 2, 8, 8), r"Burgers expects .* got \(1, 2, 8, 8\)"),
        (torch.zeros(2, 1, 8), r"Burgers expects .* got \(1, 1, 8\)"),
    ],
)
def test_other_shape_is_refused(tmp_path: Path, x: Tensor, message: str) -> None:
    write_fields(tmp_path / "a.h5", {"train": x}, Burgers().attributes(), {})

    with pytest.raises(InputError, match=message):
        check_fits(tmp_path / "a.h5", Burgers())


def test_splits_of_different_shapes_are_refused(tmp_path: Path) -> None:
    fields = {"train": torch.zeros(2, 1, 3), "val": torch.zeros(2, 1, 4)}
    write_fields(tmp_path / "a.h5", fields, {}, {})

    with pytest.raises(InputError, match=r"\(1, 4\) in split 'val', but of \(1, 3\)"):
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

    with pytest.raises(InputError, match="does not say its schema"):
        check_fits(tmp_path / "a.h5", Burgers())


def test_file_of_no_problem_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say its problem, but 'burgers' is wanted"):
        check_fits(write(tmp_path / "a.h5", train=2), Burgers())


@pytest.mark.parametrize("in_memory", [True, False])
def test_field_with_nan_is_named(tmp_path: Path, in_memory: bool) -> None:
    x = torch.zeros(5, 1, 3)
    x[2:4, 0, 1] = float("nan")
    write_fields(tmp_path / "a.h5", {"train": x}, {}, {})

    with pytest.raises(InputError, match="field 2 of /train/x"):
        fields = FieldDataset(tmp_path / "a.h5", "train", in_memory)
        fields.__getitems__([4, 3, 2])


def test_what_is_no_file_of_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("not HDF5")

    with pytest.raises(InputError, match="no HDF5 file"):
        plain(tmp_path / "a.h5").setup("fit")
    with pytest.raises(InputError, match="There is no file"):
        plain(tmp_path / "b.h5").setup("fit")
    with pytest.raises(InputError, match="`sizes` is empty"):
        plain(tmp_path / "b.h5").prepare_data()


@pytest.mark.parametrize("sizes", [{"training": 5}, {"train": 0}])
def test_sizes_that_make_no_sense_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="`sizes` has"):
        Tiny(Anything(), file="", sizes=sizes)


def test_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[Tensor]:
        yield torch.zeros(2, 1, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_fields(tmp_path / "a.h5", {"train": (4, chunks())}, {}, {})
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match="cannot be written"):
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


# reading


def test_lazy_is_in_memory(tmp_path: Path) -> None:
    write_fields(tmp_path / "a.h5", {"train": torch.randn(9, 2, 3, 4)}, {}, {})
    lazy = FieldDataset(tmp_path / "a.h5", "train", in_memory=False)
    memory = FieldDataset(tmp_path / "a.h5", "train")

    assert len(lazy) == len(memory) == 9 and lazy.shape == memory.shape == (2, 3, 4)
    for a, b in zip(
        lazy.__getitems__([7, 0, 7, 3]), memory.__getitems__([7, 0, 7, 3]), strict=True
    ):
        assert a["index"] == b["index"] and torch.equal(a["x"], b["x"])
    assert torch.equal(lazy[5]["x"], memory[5]["x"])


@pytest.mark.parametrize(
    ("context", "in_memory"), [("fork", True), ("fork", False), ("spawn", False)]
)
def test_workers_read_the_same(tmp_path: Path, context: str, in_memory: bool) -> None:
    fields = FieldDataset(write(tmp_path / "a.h5", train=6), "train", in_memory)
    assert fields[4]["x"][0, 0] == 4  # the file is open here when workers start
    loader = DataLoader(
        dataset=fields, batch_size=2, num_workers=1, multiprocessing_context=context
    )

    x = torch.cat([batch["x"] for batch in loader])
    assert torch.equal(x[:, 0, 0], torch.arange(6.0))


@pytest.mark.parametrize("in_memory", [True, False])
def test_mirror_samples_are_paired_in_turn(tmp_path: Path, in_memory: bool) -> None:
    write(tmp_path / "a.h5", train=7, val=2)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["train/y"] = 10.0 + np.arange(3).reshape(3, 1, 1)
        file["val/y"] = 20.0 + np.arange(2).reshape(2, 1, 1)
    data = plain(
        tmp_path / "a.h5", mirror_samples=str(tmp_path / "y.h5"), batch_size=7, in_memory=in_memory
    )
    data.setup("fit")
    (batch,) = data.train_dataloader()

    assert torch.equal(batch["y"].flatten(), 10.0 + batch["index"] % 3)
    assert torch.equal(batch["x"][:, 0, 0], batch["index"].float())
    (batch,) = data.val_dataloader()
    assert batch["y"].flatten().tolist() == [20.0, 21.0]
    data.setup("predict")
    assert "y" not in next(iter(data.predict_dataloader()[0]))


def test_missing_mirror_samples_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", train=2, val=2)

    with pytest.raises(InputError, match="no /train/y"):
        plain(tmp_path / "a.h5", mirror_samples=str(tmp_path / "a.h5")).setup("fit")


def test_prediction_goes_through_the_first_fields_of_train_and_val(tmp_path: Path) -> None:
    data = plain(
        write(tmp_path / "a.h5", train=9, val=4), batch_size=4, predict_sizes={"train": 6}
    )
    data.setup("predict")
    train, val = data.predict_dataloader()

    assert indices(train) == [[0, 1, 2, 3], [4, 5]] and indices(val) == [[0, 1, 2, 3]]
    data.predict_sizes = {"val": 5}
    with pytest.raises(InputError, match="5 fields of split 'val'.* has 4"):
        data.predict_dataloader()


def test_loading_leaves_global_randomness_alone(tmp_path: Path) -> None:
    data = plain(write(tmp_path / "a.h5", train=4, val=4), batch_size=2)
    data.setup("fit")
    before = torch.get_rng_state()
    indices(data.train_dataloader()), indices(data.val_dataloader())

    assert torch.equal(before, torch.get_rng_state())


# the order of batches


def test_epoch_is_a_permutation_of_the_seed(tmp_path: Path) -> None:
    batches = [list(KeyedBatches(23, 4, seed)) for seed in (0, 0, 1)]

    assert batches[0] == batches[1] != batches[2]
    assert [len(batch) for batch in batches[0]] == [4] * 5
    assert len({i for batch in batches[0] for i in batch}) == 20


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_consecutive_blocks(ranks: int) -> None:
    one = KeyedBatches(50, 4 * ranks, seed=0)
    many = [KeyedBatches(50, 4, 0, rank, ranks) for rank in range(ranks)]

    assert {len(batches) for batches in many} == {len(one)}
    for block, parts in zip(one, zip(*many, strict=True), strict=True):
        assert block == [i for part in parts for i in part]


class Ranks:
    """A trainer, as far as evaluation needs one."""

    world_size = 2
    lightning_module = None

    def __init__(self, rank: int) -> None:
        self.global_rank = rank


def test_ranks_evaluate_each_field_once(tmp_path: Path) -> None:
    seen = []
    for rank in range(2):
        data = plain(write(tmp_path / "a.h5", test=5), batch_size=2)
        data.setup("test")
        data.trainer = Ranks(rank)  # type: ignore[assignment]
        seen += [i for batch in indices(data.test_dataloader()) for i in batch]

    assert sorted(seen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"num_workers": -1}, "num_workers of at least 0"),
        ({"predict_sizes": {"test": 5}}, "positive numbers for train or val"),
    ],
)
def test_options_that_make_no_batches_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plain(write(tmp_path / "a.h5", test=5), **options)


def test_limit_that_leaves_no_batch_is_refused() -> None:
    trainer = L.Trainer(limit_train_batches=0.1, accelerator="cpu", logger=False)
    with pytest.raises(InputError, match="leaves none of the 2 batches"):
        iter(KeyedBatches(8, 4, 0, trainer=trainer))


def test_too_few_fields_for_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="7 fields do not fill a batch of 4 for each of 2"):
        KeyedBatches(7, 4, 0, ranks=2)


class Recorder(L.LightningModule):
    """Records the fields of every training step."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.global_step, batch["index"].tolist()))
        return self.weight * batch["x"].mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    path: Path,
    saved: dict[str, Any] | None = None,
    resume: Path | None = None,
    seed: int = 7,
    workers: int = 0,
    **options: Any,
) -> list[tuple[int, list[int]]]:
    module, data = Recorder(seed), plain(path, batch_size=4, num_workers=workers)
    callback = ModelCheckpoint(path.parent / "saved", "{step}", save_top_k=-1, **(saved or {}))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[callback] if saved else [],
        enable_checkpointing=saved is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module.seen


EACH_STEP = {"every_n_train_steps": 1}
EACH_EPOCH = {"every_n_epochs": 1, "save_on_train_epoch_end": True}


@pytest.mark.parametrize(
    ("options", "saved", "workers"),
    [
        ({"max_epochs": 3}, EACH_STEP, 0),
        ({"max_epochs": 3}, EACH_EPOCH, 0),
        ({"max_steps": 13}, EACH_STEP, 0),
        ({"max_steps": 13}, EACH_EPOCH, 1),
        ({"max_steps": 13, "limit_val_batches": 0}, EACH_STEP, 1),
        ({"max_steps": 13, "limit_val_batches": 0}, EACH_EPOCH, 0),
        ({"max_epochs": 3, "limit_train_batches": 3}, EACH_STEP, 0),
        ({"max_epochs": 3, "val_check_interval": 2}, EACH_STEP, 0),
        ({"max_steps": 7, "accumulate_grad_batches": 3}, EACH_STEP, 0),
    ],
)
def test_resumed_training_sees_the_same_batches(
    tmp_path: Path, options: Any, saved: Any, workers: int
) -> None:
    path = write(tmp_path / "a.h5", train=22, val=4)  # 5 batches an epoch
    whole = fit(path, saved, workers=workers, **options)
    checkpoints = list((tmp_path / "saved").iterdir())

    assert len(checkpoints) >= 3
    for checkpoint in checkpoints:
        step = int(checkpoint.stem.removeprefix("step="))
        rest = fit(path, saved, checkpoint, workers=workers, **options)
        assert rest == [(k, batch) for k, batch in whole if k >= step]


def test_epochs_have_different_orders_keyed_by_the_seed_of_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", train=8, val=4)
    a, b = ([batch for _, batch in fit(path, seed=seed, max_epochs=2)] for seed in (7, 8))

    assert a != b and a[:2] != a[2:]
    assert sorted(a[0] + a[1]) == sorted(a[2] + a[3]) == list(range(8))


def test_overfitting_repeats_its_batches(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", train=22, val=4)
    seen = fit(path, max_epochs=2, overfit_batches=2)

    assert len(seen) == 4
    assert [batch for _, batch in seen[:2]] == [batch for _, batch in seen[2:]]


# the command line


def test_command_line_builds_it_and_refuses_a_misspelt_key() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FieldData, "data")
    args = ["--data=BurgersData", "--data.constraint=Burgers", "--data.file=a", "--data.sizes={}"]
    data = parser.instantiate_classes(parser.parse_args([*args, "--data.batch_size=3"])).data

    assert isinstance(data, BurgersData) and data.batch_size == 3
    with pytest.raises(ArgumentError, match="batchsize"):
        parser.parse_args([*args, "--data.batchsize=3"])


def test_fields_changed_after_they_were_written_are_refused(tmp_path: Path) -> None:
    data = burgers(tmp_path / "a.h5")
    data.prepare_data()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["train/x"][0] *= 2

    with pytest.raises(InputError, match="changed after they were written"):
        data.setup("fit")


def test_coordinates_that_do_not_fit_the_fields_are_refused(tmp_path: Path) -> None:
    data = burgers(tmp_path / "a.h5")
    data.prepare_data()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["coords/t"]
        file["coords/t"] = np.arange(3.0)

    with pytest.raises(InputError, match="3 coordinates along t"):
        data.setup("fit")
