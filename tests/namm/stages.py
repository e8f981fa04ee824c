"""A tiny training of the maps, and ways to compare what it leaves."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from constraints import Burgers
from namm import EMA, ICNN, NAMM, Flops, MirrorMap, Optimiser, Provenance, ResNet
from namm.training.io import KeepLast
from tests.problems import AXES, make_trainer, tiny_data, tiny_mirror


def tiny_stage(mirror: MirrorMap | None = None, **options: Any) -> NAMM:
    """A stage whose weights depend on nothing but its arguments."""

    torch.manual_seed(0)
    options = {"constraint": Burgers(), "optimiser": Optimiser(1e-2, 0.5), **options}
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


# provenance
@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a NAMM that was trained from Python."""

    folder = tmp_path_factory.mktemp("trained")
    fit(folder, tiny_stage(), EMA(), Flops(), Provenance(), KeepLast(1))
    return folder


def with_dropout() -> MirrorMap:
    return MirrorMap(
        ICNN(width=4, layers=1, channels=1, padding=AXES),
        ResNet(width=4, blocks=1, channels=1, padding=AXES),
    )
