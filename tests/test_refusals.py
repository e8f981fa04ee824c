"""Refusals that hold values of their own, each by its words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from constraints import InputError, Obstacle, PlanarArm, derive_seed
from mdm import GaussianDenoiser
from namm.training.records import read_record


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: derive_seed(np.int64(3)), "integers and texts"),
        (lambda: PlanarArm([]), "PlanarArm expects"),
        (lambda: Obstacle([], 1.0), "Obstacle expects a centre"),
        (lambda: GaussianDenoiser(-torch.eye(2)), "no negative eigenvalue"),
        (lambda: GaussianDenoiser(torch.ones(2, 3)), "covariance"),
    ],
)
def test_value_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is no JSON"), ("[1]", "holds a list"), ('{"key": 3}', "has no str 'key'")],
)
def test_damaged_record_is_named(content: str, words: str, tmp_path: Path) -> None:
    (file := tmp_path / "started.json").write_text(content)
    with pytest.raises(InputError, match=words):
        read_record(file, key=str)
    file.write_text('{"key": "a"}')
    assert read_record(file, key=str) == {"key": "a"}
