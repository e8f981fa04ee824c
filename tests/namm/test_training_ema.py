"""Averaged weights: their closed form, their resumption, and who uses them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from namm import EMA, NAMM, LogFields
from namm.training.io import KeepLast
from tests.namm.stages import History, fit, last, same, tiny_stage, weights
from tests.problems import tiny_data, tiny_mirror


def closed_form(history: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """The average after k steps as a sum over the history: the first enters whole."""

    decays = [0.0] + [min(decay, (1 + n) / (10 + n)) for n in range(1, len(history))]
    shares = [(1 - d) * math.prod(decays[j + 1 :]) for j, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    return {
        name: sum(s * w[name].double() for s, w in zip(shares, history, strict=True)).float()
        for name in history[0]
    }


# the average of the weights
@pytest.mark.parametrize(("decay", "steps"), [(0.3, 6), (0.999, 4)])
def test_average_is_its_closed_form(tmp_path: Path, decay: float, steps: int) -> None:
    history = History()
    options = {"max_steps": steps, "val_check_interval": 1, "check_val_every_n_epoch": None}
    stage = tiny_stage()
    fit(tmp_path, stage, EMA(decay), history, KeepLast(1), **options)
    state = torch.load(last(tmp_path), weights_only=True)

    assert not same(history.steps[0], history.steps[-1], atol=1e-3)
    averages = {name: state["state_dict"][name] for name in history.steps[0]}
    assert same(averages, closed_form(history.steps, decay), atol=1e-6)
    # the raw weights are kept beside them, and the module ends on the average
    raw = {name: state["current_model_state"][name] for name in history.steps[0]}
    assert same(raw, history.steps[-1]) and not same(raw, averages, atol=1e-6)
    assert same(weights(stage), averages)
    # validation after step k sees the average of k steps, and training goes on without it
    assert [step for step, _ in history.validations] == list(range(1, steps + 1))
    for step, seen in history.validations:
        assert same(seen, closed_form(history.steps[:step], decay), atol=1e-6)


def test_training_does_not_depend_on_its_average(tmp_path: Path) -> None:
    with_average, without = History(), History()
    fit(tmp_path, tiny_stage(), EMA(0.9), with_average)
    fit(tmp_path, tiny_stage(), without)

    for a, b in zip(with_average.steps, without.steps, strict=True):
        assert same(a, b)


def test_resumed_average_is_that_of_the_whole_training(tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    data = tiny_data(tmp_path)
    fit(whole, tiny_stage(), EMA(0.3), KeepLast(1), data=data, max_steps=5)
    fit(rest, tiny_stage(), EMA(0.3), KeepLast(1), data=tiny_data(tmp_path), max_steps=2)
    other = tiny_stage(mirror=tiny_mirror())
    fit(
        rest,
        other,
        EMA(0.3),
        KeepLast(1),
        data=tiny_data(tmp_path),
        max_steps=5,
        ckpt_path=last(rest),
    )
    a, b = (torch.load(last(folder), weights_only=True) for folder in (whole, rest))

    assert a["global_step"] == b["global_step"] == 5
    for key in ("state_dict", "current_model_state"):
        assert same(a[key], b[key])


class Figures(Logger):
    """A logger that has a place for figures, as TensorBoard's."""

    name, version = "figures", 0

    def __init__(self) -> None:
        super().__init__()
        self.experiment = self
        self.titles: list[str] = []

    def add_figure(self, title: str, figure: Any, step: int) -> None:
        self.titles.append(title)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any) -> None:
        pass


def test_figure_of_a_validation_shows_the_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    panels = NAMM.panels

    def spy(self: NAMM, batch: dict[str, Tensor]) -> Any:
        seen.append(weights(self))
        return panels(self, batch)

    monkeypatch.setattr(NAMM, "panels", spy)
    history, logger = History(), Figures()
    callbacks = [LogFields(), EMA(0.3), history]
    fit(tmp_path, tiny_stage(), *callbacks, logger=logger)

    assert logger.titles and len(seen) == 1
    assert same(seen[0], closed_form(history.steps, 0.3), atol=1e-6)
