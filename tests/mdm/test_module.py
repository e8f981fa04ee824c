"""The stage of the diffusion model: its loss, its training and its validation."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from constraints import Burgers, derive_seed, noise
from mdm import MDM, DiffusersDenoiser, DPMSolver
from namm import EMA, Flops, IdentityMirror, Optimiser, Provenance
from namm.training.io import KeepLast
from tests.mdm.small import Recall, tiny_mdm
from tests.problems import Affine, make_trainer, tiny_data, tiny_denoiser, tiny_mirror


@pytest.mark.parametrize("name", ["val_samples", "batch_samples"])
def test_no_samples_at_all_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"MDM.*\b0\b"):
        tiny_mdm(**{name: 0})


def batch_of(n: int) -> dict[str, Tensor]:
    return {"x": noise([("x", i) for i in range(n)], (1, 8, 8)), "index": torch.arange(n)}


def test_loss_is_that_of_mirror_fields() -> None:
    class Seen(DiffusersDenoiser):
        def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
            self.y_t, self.t = y_t, t
            self.y_hat = super().denoise(y_t, t)
            return self.y_hat

    denoiser, mirror, batch = Seen(Recall(0.3)), Affine(2.0, 1.0), batch_of(256)
    y = mirror(batch["x"])
    denoiser.calibrate(y)
    stage = MDM(denoiser, mirror, t_min=0.01)
    losses = stage.losses(batch, "train", 0)
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in denoiser.schedule(denoiser.t))
    eps = (denoiser.y_t - alpha * y) / sigma
    error = (denoiser.y_hat - y).square().mean(dim=(1, 2, 3))

    torch.testing.assert_close(losses["loss"], (denoiser.weight(denoiser.t) * error).mean())
    # 16384 numbers: 5 standard errors
    assert float(eps.std()) == pytest.approx(1, abs=5 / 181)
    assert abs(float(eps.mean())) < 5 / 128
    assert 0.01 <= denoiser.t.min() < 0.03 and 0.97 < denoiser.t.max() < 1
    assert float(denoiser.t.mean()) == pytest.approx(0.505, abs=5 * 0.286 / 16)


def test_log_normal_noise_levels() -> None:
    denoiser, batch = tiny_denoiser(), batch_of(1024)
    denoiser.std.fill_(0.3)
    stage = tiny_mdm(denoiser=denoiser, log_normal=(-0.5, 1.2))
    t = stage._times(batch, "train", 0).double()
    alpha, sigma = denoiser.schedule(t)
    level = (sigma / (0.3 * alpha)).log()

    # the ends of time cut less than a thousandth of the levels
    assert float(level.mean()) == pytest.approx(-0.5, abs=5 * 1.2 / 32)
    assert float(level.std()) == pytest.approx(1.2, abs=5 * 1.2 / 45)


def test_plain_model_is_that_of_the_identity_mirror() -> None:
    batch = batch_of(4)
    plain, identity = tiny_mdm(), tiny_mdm(mirror=IdentityMirror())

    assert torch.equal(plain.losses(batch, 0)["loss"], identity.losses(batch, 0)["loss"])
    assert not torch.equal(plain.losses(batch, 0)["loss"], plain.losses(batch, 1)["loss"])


def test_model_trains_in_mirror_space(tmp_path: Path) -> None:
    mirror = tiny_mirror()
    with torch.no_grad():
        mirror.forward_map.out.weight.fill_(0.2)
    before = {k: v.clone() for k, v in mirror.state_dict().items()}
    stage = tiny_mdm(mirror=mirror, seed=3)
    start = {k: v.clone() for k, v in stage.denoiser.state_dict().items()}
    data = tiny_data(tmp_path)
    trainer = make_trainer(tmp_path, [EMA(), Flops(), Provenance(), KeepLast(1)], max_steps=3)
    trainer.fit(stage, data)
    logged = trainer.callback_metrics

    assert all(torch.equal(v, before[k]) for k, v in stage.mirror.state_dict().items())
    end = stage.denoiser.state_dict()
    assert all(not torch.equal(end[k], start[k]) for k in end)  # mean and std included
    fields = torch.stack([data.fields["train"][i]["x"] for i in range(12)])
    with torch.no_grad():
        y = mirror(fields)
    torch.testing.assert_close(end["mean"], y.mean())
    torch.testing.assert_close(end["std"], y.std())
    assert float(logged["val/data_floor"]) <= 1e-6 and torch.isfinite(logged["val/loss"])
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {"denoiser.mean", "denoiser.std"} <= set(state["state_dict"])
    assert not {"denoiser", "mirror", "sampler"} & set(state["hyper_parameters"])


def test_validation_draws_samples_from_the_average(tmp_path: Path) -> None:
    mirror = tiny_mirror()
    stage = tiny_mdm(mirror=mirror, seed=3, optimiser=Optimiser(0.1, 0.9))
    trainer = make_trainer(tmp_path, [EMA(0.9), KeepLast(1)], max_steps=3)
    trainer.fit(stage, tiny_data(tmp_path))
    seeds = [derive_seed(3, "val", i) for i in range(5)]

    def distance() -> float:
        with torch.no_grad():
            x = mirror.inverse(DPMSolver(3)(stage.denoiser, (1, 8, 8), seeds).y)
            return float(Burgers()(x).mean())

    average = distance()
    raw = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    stage.load_state_dict(raw["current_model_state"])
    assert average != pytest.approx(distance(), rel=1e-3)
    assert float(trainer.callback_metrics["val/samples"]) == pytest.approx(average, rel=1e-4)


def test_same_seed_same_weights(tmp_path: Path) -> None:
    ends = []
    for seed, anything in ((0, 1), (0, 2), (1, 1)):
        stage = tiny_mdm(seed=seed)
        torch.manual_seed(anything)
        make_trainer(tmp_path).fit(stage, tiny_data(tmp_path))
        ends.append(torch.cat([v.flatten() for v in stage.denoiser.state_dict().values()]))

    assert torch.equal(ends[0], ends[1])
    assert (ends[0] - ends[2]).abs().max() > 1e-4


def test_mirror_stays_in_evaluation_mode() -> None:
    stage = tiny_mdm(mirror=tiny_mirror()).train()

    assert stage.denoiser.training and not stage.mirror.training
    assert not any(w.requires_grad for w in stage.mirror.parameters())


def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    x, index = (torch.stack(column) for column in zip(*rows, strict=True))
    return {"x": x, "index": index}


class Stream(IterableDataset):
    def __init__(self, items: list[dict[str, Tensor]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.items)


class Batches:
    """A loader with no dataset."""

    def __init__(self, x: Tensor) -> None:
        self.parts = x.split(2)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for i, x in enumerate(self.parts):
            yield {"x": x, "index": 2 * i + torch.arange(len(x))}


@pytest.mark.parametrize("kind", ["rows", "stream", "tensors", "whole batches", "no dataset"])
def test_fit_takes_any_loader(tmp_path: Path, kind: str) -> None:
    fields, index = batch_of(6)["x"], torch.arange(6)
    items = [{"x": x, "index": i} for x, i in zip(fields, index, strict=True)]
    loaders = {
        "rows": DataLoader(items, batch_size=2),
        "stream": DataLoader(Stream(items), batch_size=2),
        "tensors": DataLoader(TensorDataset(fields, index), batch_size=2, collate_fn=collate),
        "whole batches": DataLoader(list(Batches(fields)), batch_size=None),
        "no dataset": Batches(fields),
    }
    stage = tiny_mdm(constraint=None)
    trainer = make_trainer(tmp_path, [Flops(), Provenance()], max_steps=2)
    trainer.fit(stage, loaders[kind], DataLoader(items, batch_size=2))

    assert float(stage.denoiser.mean) == pytest.approx(float(fields.mean()), rel=1e-5)
    assert trainer.global_step == 2
