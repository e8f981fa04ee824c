"""Written samples: each row belongs to its field."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from constraints import derive_seed
from mdm import DPMSolver, SampleWriter
from namm import space
from tests.mdm.small import tiny_mdm
from tests.problems import Spawned, make_trainer, processes, tiny_data, tiny_denoiser


# predictions
def predict(folder: Path, name: str, batch_size: int, **options: Any) -> dict[str, np.ndarray]:
    stage = tiny_mdm(seed=7)
    stage.denoiser.std.fill_(0.3)
    writer = SampleWriter(str(folder / "out" / name))
    trainer = make_trainer(folder, [writer], **options.pop("trainer", {}))
    data = tiny_data(folder, batch_size=batch_size, **options)
    trainer.predict(stage, data, return_predictions=False)
    with h5py.File(folder / "out" / name) as file:
        assert dict(file.attrs) == {"schema": "namm-mirror/1", "space": space(stage.mirror)}
        return {split: file[f"{split}/y"][:] for split in file}


def test_row_of_a_prediction_belongs_to_its_field(tmp_path: Path) -> None:
    found = predict(tmp_path, "a.h5", batch_size=5)
    denoiser = tiny_denoiser()
    denoiser.std.fill_(0.3)

    assert found["train"].shape == (12, 1, 8, 8) and found["val"].shape == (4, 1, 8, 8)
    assert found["train"].dtype == np.float32
    for number, split in enumerate(("train", "val")):
        for i in (0, 3):
            seed = derive_seed(7, "predict", number, i)
            y = DPMSolver(3)(denoiser, (1, 8, 8), [seed]).y[0]
            np.testing.assert_allclose(found[split][i], y, rtol=0, atol=1e-5)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.h5"]


def test_predictions_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    a = predict(tmp_path, "a.h5", batch_size=5)
    b = predict(tmp_path, "b.h5", batch_size=2, predict_sizes={"train": 7})

    assert b["train"].shape[0] == 7
    np.testing.assert_allclose(a["train"][:7], b["train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(a["val"], b["val"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_write_the_rows_of_one(tmp_path: Path) -> None:
    one = predict(tmp_path, "one.h5", batch_size=5)
    with processes():
        two = {"devices": 2, "strategy": Spawned()}
        both = predict(tmp_path, "two.h5", batch_size=2, predict_sizes={"val": 3}, trainer=two)

    np.testing.assert_allclose(one["train"], both["train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(one["val"][:3], both["val"], rtol=0, atol=1e-5)
