"""Training of the maps: its loss, its noise, its schedule and its figures."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from torch import Tensor

from constraints import Burgers, InputError
from namm import EMA, NAMM, IdentityMirror, MirrorMap, Optimiser
from namm.training.io import KeepLast
from tests.namm.stages import History, fit, last, same, tiny_stage, weights, with_dropout
from tests.problems import tiny_mirror


# training
def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    stage = tiny_stage(constraint_weight=3.0, regulariser_weight=0.5)
    batch = {"x": torch.rand(4, 1, 8, 8), "index": torch.arange(4)}
    losses = stage.losses(batch, "train", 0)
    cycle = 0.5 * (losses["cycle_forward"] + losses["cycle_inverse"])

    torch.testing.assert_close(
        losses["loss"], cycle + 3 * losses["constraint"] + 0.5 * losses["regulariser"]
    )
    terms = {"cycle_forward", "cycle_inverse", "constraint", "constraint_clean", "regulariser"}
    assert set(losses) == {"loss", *terms}


def test_noise_of_a_sample_depends_on_seed_sample_and_step_alone() -> None:
    stage = tiny_stage()
    x, index = torch.rand(6, 1, 8, 8), torch.arange(6)
    batch = {"x": x, "index": index}
    one = {"x": x[4:5], "index": index[4:5]}

    def draw(batch: dict[str, Tensor], *key: int | str, seed: int = 0) -> Tensor:
        stage.seed = seed
        return stage.noise(batch, (1, 8, 8), *key)

    together = draw(batch, "train", 7)
    assert torch.equal(draw(one, "train", 7), together[4:5])
    for other in (draw(one, "train", 8), draw(one, "val"), draw(one, "train", 7, seed=1)):
        assert not torch.isclose(other, together[4:5]).any()


def test_level_of_the_noise_is_uniform_up_to_its_maximum() -> None:
    class Record(IdentityMirror):
        def inverse(self, y: Tensor) -> Tensor:
            self.seen = y
            return y

    mirror = Record()
    stage = NAMM(mirror, Burgers(), sigma_max=0.5)
    n = 512
    stage.losses({"x": torch.zeros(n, 1, 8, 8), "index": torch.arange(n)}, "train", 0)
    clean, noisy = mirror.seen.chunk(2)
    levels = noisy.flatten(1).square().mean(dim=1).sqrt()

    assert not clean.any()
    # the std of 64 numbers is known to 9 %, the mean level of 512 samples to 0.0064
    assert levels.max() < 0.5 * 1.45 and levels.min() < 0.02
    assert levels.mean().item() == pytest.approx(0.25, abs=4 * 0.0064)


def test_weight_of_the_constraint_rises_over_its_warmup(tmp_path: Path) -> None:
    class Losses(L.Callback):
        weights: ClassVar[list[float]] = []

        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            terms = {k[6:]: v.item() for k, v in trainer.callback_metrics.items()}
            rest = 0.5 * (terms["cycle_forward"] + terms["cycle_inverse"])
            rest += 1e-3 * terms["regulariser"]
            self.weights.append((terms["loss"] - rest) / terms["constraint"])

    stage = tiny_stage(constraint_weight=20.0, constraint_warmup=4)
    fit(tmp_path, stage, Losses(), max_steps=6)

    # the loss is a sum in single precision
    assert Losses.weights == pytest.approx([0, 5, 10, 15, 20, 20], abs=1e-3)
    batch = {"x": torch.randn(4, 1, 8, 8), "index": torch.arange(4)}
    losses = stage.eval().losses(batch, "val")
    rest = 0.5 * (losses["cycle_forward"] + losses["cycle_inverse"])
    rest += 1e-3 * losses["regulariser"]
    torch.testing.assert_close(losses["loss"], rest + 20 * losses["constraint"])


@pytest.mark.parametrize("make", [tiny_mirror, with_dropout])
def test_same_seed_same_weights(tmp_path: Path, make: Callable[[], MirrorMap]) -> None:
    ends = []
    for seed, anything in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(3)
        stage = NAMM(make(), Burgers(), optimiser=Optimiser(1e-2, 0.5), seed=seed)
        torch.manual_seed(anything)  # the global generator decides nothing
        fit(tmp_path, stage)
        ends.append(weights(stage))

    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2], atol=1e-4)


def test_convex_weights_stay_non_negative(tmp_path: Path) -> None:
    stage = tiny_stage(optimiser=Optimiser(0.1, 0.5))
    fit(tmp_path, stage, EMA(0.5), KeepLast(1), max_steps=4)
    state = torch.load(last(tmp_path), weights_only=True)

    names = ["mirror.forward_map.convex.0.weight", "mirror.forward_map.out.weight"]
    for source in ("state_dict", "current_model_state"):
        assert all(state[source][name].min() >= 0 for name in names)
    # it was the clamp that kept them
    assert any((state["current_model_state"][name] == 0).any() for name in names)


def test_rate_rises_and_falls(tmp_path: Path) -> None:
    history = History()
    fit(
        tmp_path,
        tiny_stage(optimiser=Optimiser(1.0, 0.5, warmup=3, decay=True)),
        history,
        max_steps=8,
    )
    expected = [min(1, (k + 1) / 4) * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]

    assert history.rates == pytest.approx(expected)


def test_rate_that_falls_needs_a_last_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_steps"):
        fit(
            tmp_path,
            tiny_stage(optimiser=Optimiser(1e-2, 0.5, decay=True)),
            max_steps=-1,
            max_epochs=-1,
        )


def test_validation_logs_what_the_figures_need(tmp_path: Path) -> None:
    trainer = fit(tmp_path, tiny_stage(sigma_max=0.2), EMA(), max_steps=3)
    logged = {k: v.item() for k, v in trainer.callback_metrics.items()}

    robustness = [f"val/robustness/{level}" for level in ("0", "0.05", "0.1", "0.15", "0.2")]
    assert {*robustness, "val/data_floor", "val/loss", "train/loss"} <= set(logged)
    assert "train/gradient_norm" in logged
    assert logged["val/robustness/0"] == pytest.approx(logged["val/constraint_clean"], rel=1e-4)
    assert logged["val/data_floor"] <= 1e-6
    assert all(map(math.isfinite, logged.values()))


def test_maps_without_noise_are_trained_too(tmp_path: Path) -> None:
    fit(tmp_path, tiny_stage(sigma_max=0.0))
