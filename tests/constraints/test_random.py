"""Randomness by key: a draw depends on its key and on nothing else."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from constraints import derive_seed, noise, uniform


# randomness
@pytest.mark.parametrize("draw", [noise, uniform])
def test_draw_depends_on_its_key_alone(draw: Callable[..., Tensor]) -> None:
    keys = [(0, "train", i, 3) for i in range(6)]
    x = draw(keys, (2, 5))
    before = torch.get_rng_state()
    torch.manual_seed(1)

    assert x.shape == (6, 2, 5)
    assert torch.equal(draw(keys[::-1], (2, 5)), x.flip(0))
    assert torch.equal(torch.cat([draw([key], (2, 5)) for key in keys]), x)
    torch.set_rng_state(before)
    draw(keys, (3,))
    assert torch.equal(before, torch.get_rng_state())


def test_different_keys_draw_different_numbers() -> None:
    keys = [(a, b, c) for a in (0, 1, "1") for b in ("train", "val") for c in (0, 1, -1)]
    keys += [(0,), (0, "train"), (0, "train", 0, 0), (1, 0), (10,), ("0",)]
    seeds = {derive_seed(*key) for key in keys}

    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({x.item() for x in noise(keys, ())}) == len(keys)


def test_key_means_the_same_in_every_process() -> None:
    code = "from constraints import derive_seed; print(derive_seed(7, 'namm', 3))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        env={"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(run.stdout) == derive_seed(7, "namm", 3)


def test_draws_follow_dtype_but_not_its_digits() -> None:
    like = torch.zeros((), dtype=torch.float64)
    x = noise([(0,)], (4,), like)

    assert x.dtype == torch.float64 and noise([(0,)], (4,)).dtype == torch.float32
    assert torch.equal(x, noise([(0,)], (4,)).double())


def test_draws_have_their_distributions() -> None:
    # 400 keys of 100 numbers: the error of a mean is 1 / 200 in units of the std; 5 of them
    keys = [(0, "test", i) for i in range(400)]
    normal, flat = noise(keys, (100,)), uniform(keys, (100,))

    assert normal.mean().abs() < 0.025 and (normal.var() - 1).abs() < 5 * 2**0.5 / 200
    assert normal[:, 0].std() == pytest.approx(1, abs=5 / 800**0.5)  # across keys alone
    assert flat.min() >= 0 and flat.max() < 1
    assert (flat.mean() - 0.5).abs() < 0.025 / 12**0.5
    # neighbouring keys are not correlated
    assert (normal[1:] * normal[:-1]).mean().abs() < 0.025
