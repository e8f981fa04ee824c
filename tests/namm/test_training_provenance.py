"""Where a checkpoint comes from: the problems and the spaces that it fits."""

import json
import logging
import math
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import (
    Ball,
    Box,
    Burgers,
    Constraint,
    Distance,
    Divergence,
    Given,
    InputError,
    Obstacle,
    Periodic,
    PlanarArm,
    Sum,
    Waypoints,
)
from namm import EMA, ICNN, NAMM, Flops, IdentityMirror, Mirror, MirrorMap, PatchNet, Provenance
from namm.description import describe_constraint
from tests.namm.stages import fit, last, tiny_stage
from tests.namm.stages import trained as trained  # a fixture
from tests.problems import AXES, Total, make_trainer, randomise, tiny_data, tiny_mirror


def other_problem(kind: str, trained: Path, folder: Path) -> tuple[NAMM, Any, str]:
    """A stage that goes on from a checkpoint of another problem, and what should be said."""

    if kind == "constraint":
        data = tiny_data(folder, Burgers(viscosity=0.06))
        said = r"has constraint .*viscosity\D+0\.05\b.*, this stage has .*viscosity\D+0\.06\b"
        return tiny_stage(constraint=Burgers(viscosity=0.06)), data, said
    if kind == "shape":
        data = tiny_data(folder, frames=6)
        return tiny_stage(), data, r"has shape \[1, 8, 8\], this stage has \[1, 8, 6\]"
    data = tiny_data(folder, seed=1)
    found = torch.load(last(trained), weights_only=True)["provenance"]["data"]
    data.prepare_data(), data.setup("fit")
    said = f"has data {found[:12]}, this stage has {data.sha256[:12]}"
    assert found[:12] != data.sha256[:12]
    return tiny_stage(), data, said


@pytest.mark.parametrize("verb", ["fit", "validate"])
@pytest.mark.parametrize("kind", ["constraint", "shape", "data"])
def test_checkpoint_of_another_problem_is_refused(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, verb: str
) -> None:
    stage, data, said = other_problem(kind, trained, tmp_path)

    def run(force: bool) -> None:
        trainer = make_trainer(tmp_path, [EMA(), Flops(), Provenance(force)], max_steps=4)
        act = trainer.fit if verb == "fit" else trainer.validate
        act(stage, datamodule=data, ckpt_path=last(trained), weights_only=True)

    with pytest.raises(InputError, match=f"{said}.*--force"):
        run(force=False)
    with caplog.at_level(logging.INFO):
        run(force=True)
    assert "Ignored because of --force" in caplog.text


def test_checkpoint_of_other_networks_is_refused(trained: Path, tmp_path: Path) -> None:
    other = MirrorMap(
        ICNN(width=3, layers=1, channels=1, padding=AXES),
        PatchNet(patch=2, width=8, blocks=1, detail=2, channels=1, padding=AXES),
    )

    with pytest.raises(InputError, match=r"mirror\.forward_map\.convex"):
        fit(tmp_path, tiny_stage(other), ckpt_path=last(trained), max_steps=4)


class Shift(Mirror):
    """Maps in closed form."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by

    def inverse(self, y: Tensor) -> Tensor:
        return y - self.by


def test_maps_of_other_weights_make_another_space() -> None:
    one, other = tiny_mirror(), tiny_mirror()
    before = one.space()
    one.inverse_map.requires_grad_(True)
    next(one.inverse_map.parameters()).data.add_(1)

    assert IdentityMirror().space() == "data" != Shift(1.0).space() != Shift(2.0).space()
    assert one.space() == before  # f is not part of it
    next(other.forward_map.parameters()).data.add_(1)
    assert other.space() != before


@pytest.mark.parametrize("kind", ["constraint", "shape", "data"])
def test_maps_of_another_problem_are_refused(trained: Path, tmp_path: Path, kind: str) -> None:
    stage, data, said = other_problem(kind, trained, tmp_path)
    stage = tiny_stage(constraint=stage.constraint, init_from=str(last(trained)))

    with pytest.raises(InputError, match=f"{last(trained)}.*{said}"):
        fit(tmp_path, stage, Provenance(), data=data)
    fit(tmp_path, stage, Provenance(force=True), data=data)


def test_constraint_that_is_not_that_of_the_data_is_refused(tmp_path: Path) -> None:
    stage = tiny_stage(constraint=Burgers("crank_nicolson"))

    with pytest.raises(InputError, match=r"euler.*crank_nicolson"):
        fit(tmp_path, stage, Provenance())


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Divergence(), r"Divergence|problem"),
        (Obstacle([0.0, 0.0], 1.0), r"Obstacle"),
        (Periodic(), r"parameters\.tiles"),
    ],
)
def test_data_that_the_constraint_does_not_judge_are_refused(
    tmp_path: Path, constraint: Constraint, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(tmp_path, tiny_stage(constraint=constraint), Provenance())


def test_description_of_a_constraint_knows_its_tensors() -> None:
    class Learnt(Total):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = randomise(torch.nn.Linear(2, 2), 1.0, seed)

    arms = [Waypoints([0], [[1.0, 0.0]], PlanarArm(lengths)) for lengths in ([1, 1], [1, 2])]
    for one, other in (
        (Learnt(0), Learnt(1)),
        (Box(-1, 1), Box(0, 2)),
        (Waypoints([0], [[1.0, 0.0]]), Waypoints([0], [[0.0, 1.0]])),
        arms,
        (Sum([Box(-1, 1)]), Sum([Box(0, 2)])),
    ):
        assert describe_constraint(one) == describe_constraint(deepcopy(one))
        assert describe_constraint(one) != describe_constraint(other)
    nested = describe_constraint(Sum([Sum([Box(), Ball()]), Total()]))
    assert [len(term.get("terms", [])) for term in nested["terms"]] == [2, 0]


def test_terms_of_a_sum_are_compared() -> None:
    def provenance(constraint: Constraint) -> Provenance:
        callback = Provenance()
        callback.setup(SimpleNamespace(datamodule=None), tiny_stage(constraint=constraint), "fit")
        return callback

    checkpoint: dict[str, Any] = {}
    provenance(Sum([Burgers(), Total()])).on_save_checkpoint(None, None, checkpoint)
    same = provenance(Sum([Burgers(), Total()], [1, 1]))
    same.on_load_checkpoint(None, None, checkpoint)
    for terms, weights in (
        ([Burgers(), Total()], [1.0, 2.0]),
        ([Burgers(), Total(3.0)], [1.0, 1.0]),
        ([Burgers(dt=0.2), Total()], [1.0, 1.0]),
        ([Burgers()], [1.0]),
    ):
        with pytest.raises(InputError, match=r"terms|weights"):
            provenance(Sum(terms, weights)).on_load_checkpoint(None, None, checkpoint)


def test_same_problem_is_accepted_and_resumed(trained: Path, tmp_path: Path) -> None:
    trainer = fit(
        tmp_path,
        tiny_stage(),
        EMA(),
        Flops(),
        Provenance(),
        data=tiny_data(trained),
        max_steps=4,
        ckpt_path=last(trained),
    )

    assert trainer.global_step == 4


class Scaled(Distance):
    """A constraint with parameters that numpy made, alone and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.centre = np.sqrt(2.0), [np.float32(0.5), torch.zeros(1)]

    def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
        return self.scale * x.square().flatten(1).mean(dim=1)


def test_parameters_that_numpy_made_are_read_back(tmp_path: Path) -> None:
    described = describe_constraint(Scaled())
    assert described["scale"] == math.sqrt(2) and type(described["scale"]) is float
    torch.save(described, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == described
    assert json.loads(json.dumps(described))["centre"][0] == 0.5
