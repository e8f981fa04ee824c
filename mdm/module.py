r"""The stage that trains a diffusion model in mirror space."""

__all__ = ["MDM"]

from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from constraints import (
    Batch,
    Constraint,
    Given,
    OpenShare,
    PositiveFloat,
    PositiveInt,
    Real,
    Seed,
    derive_seed,
)
from namm import (
    ConstraintDistance,
    IdentityMirror,
    Mirror,
    Optimiser,
    Origin,
    Stage,
    save_recipe,
    training_loader,
)

from .denoiser import Denoiser
from .sampler import DPMSolver, Sampler, gather_given, given_rows


class MDM(Stage):
    r"""Creates the stage that trains a mirror diffusion model: a denoiser of the fields `g(x)`.
    With the `IdentityMirror` it is the plain diffusion model (DM) in data space.

    The loss is the squared error of the denoised field in units of what the network predicts.
    Times are uniform in `(t_min, 1)`, or such that the noise level relative to the std of the
    fields is log-normal, which spends training where fields are neither clean nor lost. Each
    validation draws samples, maps them back with f and logs their distance to the constraint as
    `val/samples`. Sample i takes the data `given` of validation field i.

    Arguments:
        denoiser: The denoiser.
        mirror: The maps, which stay as they are; the identity if missing.
        constraint: The constraint by which samples are judged; training does not use it.
        sampler: The sampler of validation and prediction; `DPMSolver()` if missing.
        val_samples: The number of samples of a validation.
        batch_samples: The number of samples drawn at a time.
        t_min: The smallest time of training.
        log_normal: The mean and the std of the logarithm of the relative noise level
            :math:`\sigma_t / (\alpha_t s)`; uniform times if missing. Karras et al. (2022) use
            -0.5 and 1.2.
        optimiser: The settings of Adam.
        seed: The seed of all noise, and of the order of the data.
    """

    name = "mdm"

    def __init__(
        self,
        denoiser: Denoiser,
        mirror: Mirror | None = None,
        constraint: Constraint | None = None,
        sampler: Sampler | None = None,
        val_samples: PositiveInt = 128,
        batch_samples: PositiveInt = 64,
        t_min: OpenShare = 1e-3,
        log_normal: tuple[Real, PositiveFloat] | None = None,
        optimiser: Optimiser = Optimiser(lr=2e-4, beta1=0.9),
        seed: Seed = 0,
    ) -> None:
        super().__init__(optimiser, seed)
        save_recipe(self, "denoiser", "mirror", "constraint", "sampler")
        self.denoiser = denoiser
        self.mirror = (mirror or IdentityMirror()).requires_grad_(False)
        self.constraint = constraint and constraint.requires_grad_(False)
        self.sampler = sampler or DPMSolver()
        self.val_samples, self.batch_samples = val_samples, batch_samples
        self.t_min, self.log_normal = t_min, log_normal
        self.distance = ConstraintDistance()
        self.floor = ConstraintDistance()
        self.drawn: dict[str, Tensor] = {}
        self.given: list[Given] = []  # of the fields of a validation, batch by batch

    def setup(self, stage: str) -> None:
        if stage == "fit":
            # the module has not been moved to its device yet
            x = self._first_fields(512).to(self.denoiser.template.device)
            with torch.no_grad():
                self.denoiser.calibrate(torch.cat([self.mirror(part) for part in x.split(64)]))

    def _first_fields(self, n: int) -> Tensor:
        r"""Returns the first n fields to train on, in the order of their positions."""
        loader: Any = training_loader(self.trainer)
        data = getattr(loader, "dataset", None)
        batched = getattr(loader, "batch_sampler", None) is not None
        if not batched or data is None or isinstance(data, IterableDataset):
            return torch.stack(list(islice((x for batch in loader for x in batch["x"]), n)))
        x: Tensor = loader.collate_fn([data[i] for i in range(min(n, len(data)))])["x"]
        return x

    def origin(self) -> Origin:
        return Origin(self.constraint, self.mirror, diffusion=True)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.mirror.eval()
        return self

    def losses(self, batch: Batch, *key: int | str) -> dict[str, Tensor]:
        with torch.no_grad():
            y = self.mirror(batch["x"])
        t = self._times(batch, *key)
        alpha, sigma = (a.reshape(-1, *[1] * (y.ndim - 1)) for a in self.denoiser.schedule(t))
        y_t = alpha * y + sigma * self.noise(batch, y.shape[1:], *key, "noise")
        error = (self.denoiser(y_t, t) - y).square().flatten(1).mean(dim=1)
        return {"loss": (self.denoiser.weight(t) * error).mean()}

    def _times(self, batch: Batch, *key: int | str) -> Tensor:
        if self.log_normal is None:
            return self.t_min + (1 - self.t_min) * self.uniform(batch, *key, "time")
        mean, std = self.log_normal
        level = mean + std * self.noise(batch, (), *key, "time")
        ratio = -level - self.denoiser.field_std.log()
        return self.denoiser.schedule.invert(ratio, self.t_min).to(level)

    def on_validation_epoch_start(self) -> None:
        self.given = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.constraint is not None:
            self.floor.update(self.constraint(batch["x"], batch.get("given")))
            if "given" in batch:
                self.given.append(batch["given"])
        if batch_idx == 0:
            self.drawn = {"x": batch["x"]}

    def on_validation_epoch_end(self) -> None:
        if self.constraint is None:
            return
        if self.trainer.sanity_checking:
            self.floor.reset()
            return
        shape = self.mirror.shape(self.drawn["x"].shape[1:])
        mine = range(self.val_samples)[self.global_rank :: self.trainer.world_size]
        fields = gather_given(self.given)
        for k in range(0, len(mine), self.batch_samples):
            part = mine[k : k + self.batch_samples]
            seeds = [derive_seed(self.seed, "val", i) for i in part]
            x = self.mirror.inverse(y := self.sampler(self.denoiser, shape, seeds).y)
            self.distance.update(self.constraint(x, given_rows(fields, part, x)))
            if k == 0 and isinstance(self.mirror, IdentityMirror):
                self.drawn["sample"] = x
            elif k == 0:
                self.drawn |= {"sample y": y, "f(y)": x}
        for name, metric in (("samples", self.distance), ("data_floor", self.floor)):
            self.log(f"val/{name}", metric.compute()["mean"])
            metric.reset()

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        shape = self.mirror.shape(batch["x"].shape[1:])
        seeds = [
            derive_seed(self.seed, "predict", dataloader_idx, i) for i in batch["index"].tolist()
        ]
        y = self.sampler(self.denoiser, shape, seeds).y
        return {"y": y.cpu(), "index": batch["index"].cpu()}

    def panels(self, batch: Batch) -> tuple[dict[str, Tensor], list[str]]:
        r"""Returns data, the last validation's samples and what f makes of them, by title, and the
        titles of those in mirror space."""
        del batch
        return self.drawn, [] if isinstance(self.mirror, IdentityMirror) else ["sample y"]
