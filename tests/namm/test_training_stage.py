"""A training that breaks: it names the step, the term and the samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from constraints import Burgers, InputError
from namm import EMA, NAMM
from namm.training.io import KeepLast
from tests.mdm.small import tiny_mdm
from tests.namm.stages import fit, last, tiny_stage
from tests.problems import tiny_data


class Break(L.Callback):
    """Does something to the module before a step."""

    def __init__(self, step: int, what: Callable[[Any], None]) -> None:
        self.step, self.what = step, what

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        if trainer.global_step == self.step:
            self.what(pl_module)


class Fragile(Burgers):
    """A constraint whose distance can be broken."""

    broken = False

    def forward(self, x: Tensor) -> Tensor:
        distance = super().forward(x)
        return distance * float("nan") if self.broken else distance


class Learned(Burgers):
    """A constraint with a weight and running statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))
        self.norm = torch.nn.BatchNorm2d(1, eps=0)

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(self.gain * self.norm(x))


@pytest.mark.parametrize("make", [tiny_stage, tiny_mdm])
def test_constraint_is_not_trained(tmp_path: Path, make: Callable[..., Any]) -> None:
    stage = make(constraint=Learned())
    before = {k: v.clone() for k, v in stage.constraint.state_dict().items()}
    weights = {k: v.clone() for k, v in stage.state_dict().items()}
    fit(tmp_path, stage, data=tiny_data(tmp_path, Learned().eval()), max_steps=3)
    assert not stage.constraint.training and not stage.constraint.norm.training
    assert all(torch.equal(v, before[k]) for k, v in stage.constraint.state_dict().items())
    assert not all(torch.equal(v, weights[k]) for k, v in stage.state_dict().items())


# the guard against NaN
def test_broken_loss_names_step_term_and_samples(tmp_path: Path) -> None:
    def break_constraint(stage: NAMM) -> None:
        stage.constraint.broken = True

    seen: list[list[int]] = []

    class Batches(L.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
            seen.append(batch["index"].tolist())

    stage = tiny_stage(constraint=Fragile())
    with pytest.raises(InputError) as caught:
        fit(
            tmp_path,
            stage,
            EMA(),
            KeepLast(1),
            Break(2, break_constraint),
            Batches(),
            data=tiny_data(tmp_path, Fragile()),
            max_steps=5,
        )
    message = str(caught.value)

    assert "At step 2 " in message and "constraint is nan" in message
    assert "cycle" not in message
    assert str(seen[2]) in message
    assert str(last(tmp_path)) in message
    # which is the state before the broken step, and can be resumed
    state = torch.load(last(tmp_path), weights_only=True)
    assert state["global_step"] == 2
    assert all(torch.isfinite(v).all() for v in state["state_dict"].values())
    trainer = fit(tmp_path, tiny_stage(), EMA(), max_steps=4, ckpt_path=last(tmp_path))
    assert trainer.global_step == 4


def test_broken_weights_name_the_terms_that_see_them(tmp_path: Path) -> None:
    def break_inverse(stage: NAMM) -> None:
        next(stage.mirror.inverse_map.parameters()).data.fill_(float("nan"))

    with pytest.raises(InputError, match=r"step 1\b.*cycle_inverse") as caught:
        fit(tmp_path, tiny_stage(), Break(1, break_inverse))
    assert "No checkpoint was written" in str(caught.value)
    assert "regulariser" not in str(caught.value)


def test_resumed_training_that_breaks_names_the_checkpoint_it_came_from(tmp_path: Path) -> None:
    def break_inverse(stage: NAMM) -> None:
        next(stage.mirror.inverse_map.parameters()).data.fill_(float("nan"))

    fit(tmp_path, tiny_stage(), KeepLast(1))
    before = last(tmp_path).read_bytes()
    resume: dict[str, Any] = {"max_steps": 6, "ckpt_path": last(tmp_path)}
    with pytest.raises(InputError, match=str(last(tmp_path))):
        fit(tmp_path, tiny_stage(), KeepLast(100), Break(4, break_inverse), **resume)
    assert last(tmp_path).read_bytes() == before
