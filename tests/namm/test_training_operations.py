"""Operations of a training: how they are counted, kept and matched."""

from pathlib import Path

import pytest
import torch
from torch import nn

from constraints import Burgers, InputError
from namm import EMA, ICNN, NAMM, AxisConv2d, CountFlops, Flops, MirrorMap, Optimiser
from namm.training.io import KeepLast
from tests.namm.stages import History, fit, last, same, tiny_stage, weights, with_dropout
from tests.namm.stages import trained as trained  # a fixture
from tests.problems import AXES, tiny_data


# counted operations
@pytest.mark.parametrize("into_input", [False, True])
def test_count_of_a_convolution_and_a_product(into_input: bool) -> None:
    conv, linear = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(7, 4)
    x = torch.randn(2, 3, 8, 6, requires_grad=into_input)
    v = torch.randn(6, 7, requires_grad=into_input)
    with CountFlops() as counter:
        conv(x), linear(v)
    one = 2 * (2 * 5 * 8 * 6) * (3 * 9) + 2 * 6 * 7 * 4

    assert counter.flops == one
    with CountFlops() as counter:
        (conv(x).sum() + linear(v).sum()).backward()
    # backward: once for the weights, once more for the input
    assert counter.flops == (3 if into_input else 2) * one


def test_count_of_a_gradient_map() -> None:
    net, x = ICNN(width=3, layers=1, channels=1, padding=AXES), torch.randn(2, 1, 8, 8)
    with CountFlops() as counter, torch.no_grad():
        net(x)
    pixel = 2 * 2 * 64 * 9
    free, convex, out = pixel * 12, pixel * 9, pixel * 3

    # up to the last slopes, and down to the input from all of it, without any weight
    assert counter.flops == 2 * (free + convex) + out


def one_convolution() -> MirrorMap:
    return MirrorMap(AxisConv2d(1, 1, 3, padding=AXES), AxisConv2d(1, 1, 3, padding=AXES))


def test_step_is_counted_and_kept(tmp_path: Path) -> None:
    flops = Flops()
    trainer = fit(tmp_path, tiny_stage(one_convolution()), flops, KeepLast(1))
    state = torch.load(last(tmp_path), weights_only=True)

    # for 4 fields g, 8 times f, and 4 times g; backward all again for the weights, and f and the
    # last g for their inputs
    step = (4 + 8 + 4 + (4 + 8 + 4) + (8 + 4)) * 2 * 64 * 9
    assert flops.per_step == step
    assert flops.total == trainer.callback_metrics["flops"].item() == 3 * step
    assert {"total": 3 * step, "per_step": step} in state["callbacks"].values()


def test_counting_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [Flops()]):
        torch.manual_seed(0)
        stage = NAMM(with_dropout(), Burgers(), optimiser=Optimiser(1e-2, 0.5))
        fit(tmp_path, stage, *callbacks)
        ends.append(weights(stage))

    assert same(*ends)


@pytest.mark.parametrize("times", [1, 3])
def test_training_matches_the_operations_of_others(tmp_path: Path, times: int) -> None:
    spent = []
    for k in range(times):
        flops = Flops()
        fit(tmp_path / str(k), tiny_stage(), flops, KeepLast(1), data=tiny_data(tmp_path))
        spent.append(flops.total)
    history, flops = History(), Flops([str(last(tmp_path / str(k))) for k in range(times)])
    stage = tiny_stage(with_dropout(), optimiser=Optimiser(1.0, 0.5, decay=True))
    trainer = fit(tmp_path, stage, flops, history, KeepLast(1), max_steps=1)

    assert trainer.global_step == len(history.steps) > 1
    assert abs(flops.total - sum(spent)) <= flops.per_step / 2
    # its schedule knows the new last step
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert last(tmp_path).exists()


def test_match_with_an_uncounted_training_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, tiny_stage(), KeepLast(1))

    with pytest.raises(InputError, match=r"\.ckpt"):
        fit(tmp_path, tiny_stage(), Flops([str(last(tmp_path))]))


def test_resumed_count_goes_on(trained: Path, tmp_path: Path) -> None:
    flops = Flops()
    data = tiny_data(trained)
    fit(tmp_path, tiny_stage(), EMA(), flops, data=data, max_steps=5, ckpt_path=last(trained))

    assert flops.total == 5 * flops.per_step


def test_steps_are_counted_as_they_ran(trained: Path, tmp_path: Path) -> None:
    state = torch.load(last(trained), weights_only=True)
    del state["course"]  # of an earlier version, which did not compare batch sizes
    torch.save(state, file := tmp_path / "old.ckpt")
    before = next(c for c in state["callbacks"].values() if "per_step" in c)
    flops = Flops()
    data = tiny_data(trained, batch_size=2)
    fit(tmp_path, tiny_stage(), EMA(), flops, data=data, max_steps=8, ckpt_path=file)

    assert 2 * flops.per_step == before["per_step"]
    assert flops.total == 3 * before["per_step"] + 5 * flops.per_step
