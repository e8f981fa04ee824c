"""Batches: their order by key, their ranks, and their order after a stop."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from constraints import InputError
from datamodules import KeyedBatches
from tests.datamodules.sources import plain, write


def indices(loader: DataLoader) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


def test_prediction_goes_through_the_first_fields_of_train_and_val(tmp_path: Path) -> None:
    data = plain(
        write(tmp_path / "a.h5", train=9, val=4), batch_size=4, predict_sizes={"train": 6}
    )
    data.setup("predict")
    train, val = data.predict_dataloader()

    assert indices(train) == [[0, 1, 2, 3], [4, 5]] and indices(val) == [[0, 1, 2, 3]]
    data.predict_sizes = {"val": 5}
    with pytest.raises(InputError, match=r"5\b.*'val'.*4\b"):
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
        ({"batch_size": 0}, r"batch_size.*\b0\b"),
        ({"num_workers": -1}, r"num_workers.*-1"),
        ({"predict_sizes": {"test": 5}}, r"train.*val"),
    ],
)
def test_options_that_make_no_batches_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plain(write(tmp_path / "a.h5", test=5), **options)


def test_limit_that_leaves_no_batch_is_refused() -> None:
    trainer = L.Trainer(limit_train_batches=0.1, accelerator="cpu", logger=False)
    with pytest.raises(InputError, match=r"\b2 batches"):
        iter(KeyedBatches(8, 4, 0, trainer=trainer))


def test_too_few_fields_for_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match=r"\b7\b.*\b4\b.*\b2\b"):
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
