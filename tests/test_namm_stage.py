"""Training of the maps: averages, checkpoints and their provenance, guards, costs and metrics."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import h5py
import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from constraints import (
    Ball,
    Box,
    Burgers,
    Constraint,
    Divergence,
    InputError,
    Obstacle,
    Periodic,
    PlanarArm,
    Sum,
    Waypoints,
    noise,
)
from namm import (
    EMA,
    ICNN,
    MMD,
    NAMM,
    AxisConv2d,
    ConstraintDistance,
    CountFlops,
    Flops,
    IdentityMirror,
    LogFields,
    Mean,
    Mirror,
    MirrorMap,
    PatchNet,
    Provenance,
    ResNet,
    Spread,
    load_mirror,
    load_part,
)
from namm.cli.lightning import main
from namm.training.io import KeepLast
from namm.training.provenance import describe_constraint, space
from problems import Total, make_trainer, randomise, tiny_data, tiny_mirror


def tiny_stage(mirror: MirrorMap | None = None, **options: Any) -> NAMM:
    """A stage whose weights depend on nothing but its arguments."""

    torch.manual_seed(0)
    options = {"constraint": Burgers(), "lr": 1e-2, **options}
    return NAMM(mirror or tiny_mirror(), **options)


def fit(
    folder: Path,
    stage: L.LightningModule,
    *callbacks: L.Callback,
    data: Any = None,
    **options: Any,
) -> L.Trainer:
    ckpt_path = options.pop("ckpt_path", None)
    trainer = make_trainer(folder, callbacks, **options)
    trainer.fit(stage, data or tiny_data(folder), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[name], b[name], rtol=0, atol=atol) for name in a
    )


class History(L.Callback):
    """Records the weights after every step, and those that validation sees."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.validations: list[tuple[int, dict[str, Tensor]]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        self.steps.append(weights(pl_module))

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        self.validations.append((trainer.global_step, weights(pl_module)))


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


def closed_form(history: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """The average after k steps as a sum over the history: the first enters whole."""

    decays = [0.0] + [min(decay, (1 + n) / (10 + n)) for n in range(1, len(history))]
    shares = [(1 - d) * math.prod(decays[j + 1 :]) for j, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    return {
        name: sum(s * w[name].double() for s, w in zip(shares, history, strict=True)).float()
        for name in history[0]
    }


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a NAMM that was trained from the command line."""

    folder = tmp_path_factory.mktemp("commanded")
    small = {"patch": 2, "width": 8, "blocks": 1, "detail": 4, "finish": 1}
    maps = {
        "forward_map": {"class_path": "namm.ICNN", "init_args": {"width": 4, "layers": 1}},
        "inverse_map": {"class_path": "namm.PatchNet", "init_args": small},
    }
    config = {
        "model": {
            "class_path": "namm.NAMM",
            "init_args": {
                "mirror": {"class_path": "namm.MirrorMap", "init_args": maps},
                "constraint": {"class_path": "constraints.Burgers"},
                "lr": 1e-2,
            },
        },
        "data": {
            "class_path": "datamodules.BurgersData",
            "init_args": {
                "constraint": {"class_path": "constraints.Burgers"},
                "file": str(folder / "fields.h5"),
                "sizes": {"train": 12, "val": 4, "test": 6},
                "points": 8,
                "frames": 8,
                "batch_size": 4,
            },
        },
        "ema": {"decay": 0.5},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 3,
            "logger": False,
            "default_root_dir": str(folder),
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "-c", str(folder / "config.yaml")])
    return folder


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


# parts of checkpoints


def test_part_of_a_command_is_its_average_or_its_raw_weights(commanded: Path) -> None:
    state = torch.load(last(commanded), weights_only=True)
    average, raw = load_mirror(str(last(commanded))), load_mirror(str(last(commanded)), "raw")

    assert type(average) is MirrorMap and type(average.forward_map) is ICNN
    assert average.forward_map.free.weight.shape == (2 * 2 * 4, 1, 3, 3)
    for mirror, source in ((average, "state_dict"), (raw, "current_model_state")):
        stored = {
            name.removeprefix("mirror."): value
            for name, value in state[source].items()
            if name.startswith("mirror.")
        }
        assert same(dict(mirror.state_dict()), stored)
    assert not same(weights(average), weights(raw))


def test_part_is_frozen_and_knows_where_it_comes_from(commanded: Path) -> None:
    mirror = load_mirror(str(last(commanded)))
    found = mirror.provenance

    assert not mirror.training and not any(w.requires_grad for w in mirror.parameters())
    assert found["checkpoint"] == str(last(commanded)) and found["shape"] == [1, 8, 8]
    assert found["constraint"]["class"] == "Burgers" and found["constraint"]["viscosity"] == 0.05
    constraint = load_part(str(last(commanded)), "constraint")
    assert isinstance(constraint, Burgers) and constraint.substeps == 5


def test_part_that_is_not_there_is_refused(commanded: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no part 'denoiser', only .*mirror"):
        load_part(str(last(commanded)), "denoiser")
    with pytest.raises(InputError, match="There is no checkpoint"):
        load_mirror(str(tmp_path / "none.ckpt"))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_mirror(str(tmp_path / "text.ckpt"))


def test_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"mirror": tiny_mirror()}}, path)

    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_mirror(str(path))


def test_checkpoint_from_python_holds_plain_data(tmp_path: Path) -> None:
    fit(tmp_path, tiny_stage(sigma_max=0.3), EMA(), Flops(), Provenance(), KeepLast(1))
    state = torch.load(last(tmp_path), weights_only=True)

    assert state["hyper_parameters"]["sigma_max"] == 0.3
    assert not {"mirror", "constraint"} & set(state["hyper_parameters"])
    assert state["provenance"]["shape"] == [1, 8, 8]
    assert {"current_model_state", "optimizer_states", "callbacks"} <= set(state)


def test_command_flushes_subnormal_numbers(commanded: Path) -> None:
    # which made the first training step twenty times slower than a later one
    assert not (torch.full((64,), 1e-30) * 1e-10).any()


# provenance


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a NAMM that was trained from Python."""

    folder = tmp_path_factory.mktemp("trained")
    fit(folder, tiny_stage(), EMA(), Flops(), Provenance(), KeepLast(1))
    return folder


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
    other = MirrorMap(ICNN(width=3, layers=1), PatchNet(patch=2, width=8, blocks=1, detail=2))

    with pytest.raises(InputError, match="of other networks: mirror.forward_map.convex"):
        fit(tmp_path, tiny_stage(other), ckpt_path=last(trained), max_steps=4)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    keep = KeepLast(1)
    with pytest.raises(InputError, match="At step 1 the loss is not finite") as refused:
        fit(tmp_path, tiny_stage(lr=float("inf")), keep, max_steps=3)

    assert "No checkpoint was written" in str(refused.value) and not last(tmp_path).exists()


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
    before = space(one)
    one.inverse_map.requires_grad_(True)
    next(one.inverse_map.parameters()).data.add_(1)

    assert space(IdentityMirror()) == "data" != space(Shift(1.0)) != space(Shift(2.0))
    assert space(one) == before  # f is not part of it
    next(other.forward_map.parameters()).data.add_(1)
    assert space(other) != before


@pytest.mark.parametrize("kind", ["constraint", "shape", "data"])
def test_maps_of_another_problem_are_refused(trained: Path, tmp_path: Path, kind: str) -> None:
    stage, data, said = other_problem(kind, trained, tmp_path)
    stage = tiny_stage(constraint=stage.constraint, init_from=str(last(trained)))

    with pytest.raises(InputError, match=f"The checkpoint {last(trained)} {said}"):
        fit(tmp_path, stage, Provenance(), data=data)
    fit(tmp_path, stage, Provenance(force=True), data=data)


def test_constraint_that_is_not_that_of_the_data_is_refused(tmp_path: Path) -> None:
    stage = tiny_stage(constraint=Burgers("crank_nicolson"))

    with pytest.raises(InputError, match="The data module has .*euler.*crank_nicolson"):
        fit(tmp_path, stage, Provenance())


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Divergence(), r"expects fields of shape \(B, T \* 2, X, Y\)|problem"),
        (Obstacle([0.0, 0.0], 1.0), "trajectories of 2 coordinates, got 1"),
        (Periodic(), "does not say its parameters.tiles"),
    ],
)
def test_data_that_the_constraint_does_not_judge_are_refused(
    tmp_path: Path, constraint: Constraint, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(tmp_path, tiny_stage(constraint=constraint), Provenance())


def test_description_of_a_constraint_knows_its_tensors() -> None:
    class Learnt(Constraint):
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
        with pytest.raises(InputError, match="this stage has"):
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


class Scaled(Constraint):
    """A constraint with parameters that numpy made, alone and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.centre = np.sqrt(2.0), [np.float32(0.5), torch.zeros(1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.square().flatten(1).mean(dim=1)


def test_parameters_that_numpy_made_are_read_back(tmp_path: Path) -> None:
    described = describe_constraint(Scaled())
    assert described["scale"] == math.sqrt(2) and type(described["scale"]) is float
    torch.save(described, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == described
    assert json.loads(json.dumps(described))["centre"][0] == 0.5


# fine-tuning


def mirror_samples(folder: Path) -> str:
    with h5py.File(folder / "samples.h5", "w") as file:
        for split, n in (("train", 5), ("val", 3)):
            file[f"{split}/y"] = noise([(split, i) for i in range(n)], (1, 8, 8)).numpy()
    return str(folder / "samples.h5")


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # the frozen map
@pytest.mark.parametrize("average", [True, False])
def test_fine_tuning_moves_the_inverse_map_alone(
    trained: Path, tmp_path: Path, average: bool
) -> None:
    data = tiny_data(tmp_path, mirror_samples=mirror_samples(tmp_path))
    stage = tiny_stage(init_from=str(last(trained)), freeze_forward=True)
    start = weights(stage)
    stored = torch.load(last(trained), weights_only=True)["state_dict"]
    assert same(start, {name: stored[name] for name in start})
    fit(tmp_path, stage, *([EMA()] if average else []), KeepLast(1), data=data)

    end = weights(stage)
    for name in start:
        moved = not torch.equal(start[name], end[name])
        assert moved == ("inverse_map" in name), name
    raw = torch.load(last(tmp_path), weights_only=True)
    raw = raw.get("current_model_state", raw["state_dict"])
    forward = [name for name in start if "forward_map" in name]
    assert all(torch.equal(start[name], raw[name]) for name in forward)


def test_frozen_map_does_not_move_with_its_dropout() -> None:
    net = ResNet(width=4, blocks=1)
    other = PatchNet(patch=2, width=8, blocks=1, detail=4)
    stage = tiny_stage(MirrorMap(net, other), freeze_forward=True)
    x = torch.rand(2, 1, 8, 8)
    stage.train()
    assert torch.equal(stage.mirror(x), stage.mirror(x)) and other.training
    assert not torch.equal(net.train()(x), net(x))  # which shows that it has some


def test_fine_tuning_refuses_samples_of_other_maps(trained: Path, tmp_path: Path) -> None:
    stage = tiny_stage(init_from=str(last(trained)))
    samples = mirror_samples(tmp_path)
    data = tiny_data(tmp_path, mirror_samples=samples)
    for drawn in (space(tiny_mirror()), space(stage.mirror)):
        with h5py.File(samples, "r+") as file:
            file.attrs["space"] = drawn
        if drawn == space(stage.mirror):
            fit(tmp_path, stage, Provenance(), data=data)
        else:
            with pytest.raises(InputError, match=r"samples.h5 were drawn in another .*--force"):
                fit(tmp_path, stage, Provenance(), data=data)


class Target(Constraint):
    """A constraint whose parameter is a buffer."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.value).square().flatten(1).mean(dim=1)


def test_forced_training_goes_on_under_the_constraint_that_is_given(tmp_path: Path) -> None:
    data = tiny_data(tmp_path)
    fit(tmp_path, tiny_stage(constraint=Target(1.0)), EMA(), Provenance(), KeepLast(1), data=data)
    stage = tiny_stage(constraint=Target(2.0))
    options: dict[str, Any] = {"ckpt_path": last(tmp_path), "max_steps": 4, "data": data}
    fit(tmp_path, stage, EMA(), Provenance(force=True), KeepLast(1), **options)

    assert stage.constraint.value == 2
    state = torch.load(last(tmp_path), weights_only=True)
    for kept in ("state_dict", "current_model_state"):
        assert state[kept]["constraint.value"] == 2


def test_fine_tuning_refuses_samples_of_another_grid() -> None:
    batch = {"x": torch.rand(2, 1, 8, 8), "index": torch.arange(2), "y": torch.rand(2, 1, 16, 16)}
    with pytest.raises(InputError, match=r"\(1, 16, 16\), but g makes fields of \(1, 8, 8\)"):
        tiny_stage().losses(batch, "train", 0)


def test_only_a_learned_mirror_is_frozen() -> None:
    with pytest.raises(InputError, match="got IdentityMirror: leave it out"):
        tiny_stage(mirror=IdentityMirror(), freeze_forward=True)


def test_fine_tuning_sees_the_mirror_samples(tmp_path: Path) -> None:
    stage = tiny_stage(sigma_max=0.0 + 1e-9)
    batch = {"x": torch.rand(2, 1, 8, 8), "index": torch.arange(2)}
    y = 3 * torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        plain, tuned = stage.losses(batch, "train", 0), stage.losses({**batch, "y": y}, "train", 0)
        expected = stage.constraint(stage.mirror.inverse(y)).mean()

    torch.testing.assert_close(tuned["constraint"], expected, rtol=1e-4, atol=1e-7)
    assert torch.allclose(tuned["cycle_forward"], plain["cycle_forward"], rtol=1e-5)
    assert not torch.isclose(tuned["constraint"], plain["constraint"])


def test_maps_of_other_networks_are_refused(trained: Path) -> None:
    mirror = MirrorMap(ICNN(width=5, layers=1), PatchNet(patch=2, width=8, blocks=1, detail=4))

    with pytest.raises(InputError, match="do not fit the networks asked for"):
        tiny_stage(mirror, init_from=str(last(trained)))


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


def with_dropout() -> MirrorMap:
    return MirrorMap(ICNN(width=4, layers=1), ResNet(width=4, blocks=1))


@pytest.mark.parametrize("make", [tiny_mirror, with_dropout])
def test_same_seed_same_weights(tmp_path: Path, make: Callable[[], MirrorMap]) -> None:
    ends = []
    for seed, anything in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(3)
        stage = NAMM(make(), Burgers(), lr=1e-2, seed=seed)
        torch.manual_seed(anything)  # the global generator decides nothing
        fit(tmp_path, stage)
        ends.append(weights(stage))

    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2], atol=1e-4)


def test_convex_weights_stay_non_negative(tmp_path: Path) -> None:
    stage = tiny_stage(lr=0.1)
    fit(tmp_path, stage, EMA(0.5), KeepLast(1), max_steps=4)
    state = torch.load(last(tmp_path), weights_only=True)

    names = ["mirror.forward_map.convex.0.weight", "mirror.forward_map.out.weight"]
    for source in ("state_dict", "current_model_state"):
        assert all(state[source][name].min() >= 0 for name in names)
    # it was the clamp that kept them
    assert any((state["current_model_state"][name] == 0).any() for name in names)


def test_rate_rises_and_falls(tmp_path: Path) -> None:
    history = History()
    fit(tmp_path, tiny_stage(lr=1.0, warmup=3, decay=True), history, max_steps=8)
    expected = [min(1, (k + 1) / 4) * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]

    assert history.rates == pytest.approx(expected)


def test_rate_that_falls_needs_a_last_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs to know the last step"):
        fit(tmp_path, tiny_stage(decay=True), max_steps=-1, max_epochs=-1)


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

    with pytest.raises(InputError, match="At step 1 .*cycle_inverse is nan") as caught:
        fit(tmp_path, tiny_stage(), Break(1, break_inverse))
    assert "No checkpoint was written" in str(caught.value)
    assert "regulariser" not in str(caught.value)


def test_resumed_training_that_breaks_names_the_checkpoint_it_came_from(tmp_path: Path) -> None:
    def break_inverse(stage: NAMM) -> None:
        next(stage.mirror.inverse_map.parameters()).data.fill_(float("nan"))

    fit(tmp_path, tiny_stage(), KeepLast(1))
    before = last(tmp_path).read_bytes()
    resume: dict[str, Any] = {"max_steps": 6, "ckpt_path": last(tmp_path)}
    with pytest.raises(InputError, match=f"The last good checkpoint is {last(tmp_path)}"):
        fit(tmp_path, tiny_stage(), KeepLast(100), Break(4, break_inverse), **resume)
    assert last(tmp_path).read_bytes() == before


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
    net, x = ICNN(width=3, layers=1), torch.randn(2, 1, 8, 8)
    with CountFlops() as counter, torch.no_grad():
        net(x)
    pixel = 2 * 2 * 64 * 9
    free, convex, out = pixel * 12, pixel * 9, pixel * 3

    # up to the last slopes, and down to the input from all of it, without any weight
    assert counter.flops == 2 * (free + convex) + out


def one_convolution() -> MirrorMap:
    return MirrorMap(AxisConv2d(1, 1, 3), AxisConv2d(1, 1, 3))


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
        stage = NAMM(with_dropout(), Burgers(), lr=1e-2)
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
    stage = tiny_stage(with_dropout(), lr=1.0, decay=True)
    trainer = fit(tmp_path, stage, flops, history, KeepLast(1), max_steps=1)

    assert trainer.global_step == len(history.steps) > 1
    assert abs(flops.total - sum(spent)) <= flops.per_step / 2
    # its schedule knows the new last step
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert last(tmp_path).exists()


def test_match_with_an_uncounted_training_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, tiny_stage(), KeepLast(1))

    with pytest.raises(InputError, match="has no count of operations"):
        fit(tmp_path, tiny_stage(), Flops([str(last(tmp_path))]))


def test_resumed_count_goes_on(trained: Path, tmp_path: Path) -> None:
    flops = Flops()
    data = tiny_data(trained)
    fit(tmp_path, tiny_stage(), EMA(), flops, data=data, max_steps=5, ckpt_path=last(trained))

    assert flops.total == 5 * flops.per_step


# metrics


def brute_mmd(x: Tensor, y: Tensor) -> float:
    distances = [float((a - b).norm()) for i, a in enumerate(x) for b in x[:i]]
    median = sorted(distances)[(len(distances) - 1) // 2]

    def kernel(a: Tensor, b: Tensor) -> float:
        square = float((a - b).square().sum())
        return sum(math.exp(-square / (2 * (w * median) ** 2)) for w in (0.5, 1, 2)) / 3

    def mean(values: Iterator[float]) -> float:
        listed = list(values)
        return sum(listed) / len(listed)

    xx = mean(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
    yy = mean(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    return xx + yy - 2 * mean(kernel(a, b) for a in x for b in y)


def measure(metric: Any, real: Tensor, fake: Tensor) -> tuple[float, float]:
    metric.update(real, real=True)
    for part in fake.split(5):
        metric.update(part, real=False)
    found = metric.compute()
    return found["mean"].item(), found["ci95"].item()


def test_mmd_is_the_sum_over_pairs() -> None:
    x, y = torch.randn(9, 1, 3, 2), 0.5 + torch.randn(13, 1, 3, 2)
    value, _ = measure(MMD(), x, y)

    assert value == pytest.approx(brute_mmd(x.flatten(1).double(), y.flatten(1).double()))


def test_jackknife_of_mmd_leaves_out_each_field_in_turn() -> None:
    # with kernels so wide apart that the median does not change with a field left out
    x, y = torch.randn(12, 2), 1 + torch.randn(8, 2)
    metric = MMD()
    _, half = measure(metric, x[:, None], y[:, None])
    joint = torch.cat([x, y]).double()
    squares = torch.cdist(joint, joint).square()
    real = squares[:12, :12][~torch.eye(12, dtype=torch.bool)].median()
    kernel = sum(torch.exp(-squares / (2 * w**2 * real)) for w in (0.5, 1, 2)) / 3

    def estimate(rows: list[int]) -> float:
        a = [i for i in rows if i < 12]
        b = [i for i in rows if i >= 12]
        aa, bb, ab = kernel[a][:, a], kernel[b][:, b], kernel[a][:, b]
        n, m = len(a), len(b)
        inner = (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1))
        return float(inner - 2 * ab.mean())

    variance = 0.0
    for group in (range(12), range(12, 20)):
        left = torch.tensor(
            [estimate([i for i in range(20) if i != k]) for k in group], dtype=torch.float64
        )
        variance += (len(group) - 1) / len(group) * (left - left.mean()).square().sum().item()

    assert half == pytest.approx(1.96 * math.sqrt(variance), rel=1e-5)


def test_mmd_is_unbiased_where_samples_are_data() -> None:
    values = []
    for k in range(200):
        x, y = noise([(k, side) for side in ("x", "y")], (20, 1, 6)).unbind()
        values.append(measure(MMD(), x, y)[0])
    found = torch.tensor(values)

    # three standard errors of 200 repeats; the biased estimate would be off by 1 / 20
    assert found.mean().abs() < 3 * found.std() / math.sqrt(200)
    assert (found < 0).any()


def repeats(metric: Callable[[], Any], shift: float, scale: float) -> tuple[float, float]:
    """The std of the estimates of 200 repeats, and the one that the intervals claim."""

    found = []
    for k in range(200):
        x, y = noise([(k, side) for side in ("x", "y")], (32, 1, 4)).unbind()
        found.append(measure(metric(), x, shift + scale * y))
    values, halves = torch.tensor(found).T
    return values.std().item(), halves.mean().item() / 1.96


@pytest.mark.parametrize(("metric", "shift", "scale"), [(MMD, 0.8, 1.0), (Spread, 0.0, 0.7)])
def test_interval_is_the_scatter_of_repeats(metric: Any, shift: float, scale: float) -> None:
    scatter, claimed = repeats(metric, shift, scale)

    # the scatter of 200 repeats is known to 5 %
    assert claimed == pytest.approx(scatter, rel=0.2)


def test_mmd_grows_with_the_difference() -> None:
    x, y = noise([(0, side) for side in ("x", "y")], (40, 1, 8)).unbind()
    values = [measure(MMD(), x, y + shift)[0] for shift in (0.0, 0.5, 1.0, 2.0)]

    assert values == sorted(values) and values[1] > 0


def test_spread_is_the_ratio_of_deviations() -> None:
    x = torch.randn(30, 1, 4, 4)
    value, half = measure(Spread(), x, 0.5 * x[:20] + 3)
    expected = 0.5 * x[:20].std(dim=0).mean() / x.std(dim=0).mean()
    left = torch.stack([torch.cat([x[:k], x[k + 1 :]]).std(dim=0).mean() for k in range(30)]).log()
    fake = x[:20]
    less = torch.stack(
        [torch.cat([fake[:k], fake[k + 1 :]]).std(dim=0).mean() for k in range(20)]
    ).log()
    variance = sum(
        (len(v) - 1) / len(v) * (v.double() - v.double().mean()).square().sum()
        for v in (left, less)
    )

    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert half == pytest.approx(1.96 * value * variance.sqrt().item(), rel=1e-3)
    assert measure(Spread(), x, x)[0] == pytest.approx(1)


def test_spread_of_one_field_repeated_is_zero() -> None:
    value, half = measure(Spread(), torch.randn(9, 1, 4), torch.ones(6, 1, 4))

    assert value == 0 and not math.isnan(half)


@pytest.mark.parametrize("metric", [Mean, ConstraintDistance])
def test_mean_and_its_interval(metric: type[Mean]) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    found = metric()
    found.update(values[:3])
    found.update(values[3:])
    computed = found.compute()

    assert computed["mean"] == 3
    assert computed["ci95"].item() == pytest.approx(1.96 * math.sqrt(14 / 3) / 2)
    alone = metric()
    alone.update(values[:1])
    assert alone.compute() == {"mean": torch.tensor(1.0), "ci95": torch.tensor(0.0)}
