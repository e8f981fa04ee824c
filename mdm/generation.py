r"""The test stage of unconditional samples."""

__all__ = ["Generation"]

import torch
from torch import Tensor

from constraints import (
    Batch,
    Constraint,
    Given,
    InputError,
    PositiveInt,
    Seed,
    derive_seed,
    progress,
)
from namm import Evaluation, IdentityMirror, Mirror, save_recipe

from .denoiser import Denoiser
from .sampler import DPMSolver, Result, Sampler, gather_given, given_rows


class Generation(Evaluation):
    r"""Creates the test stage that draws samples of a diffusion model, returns them to data space,
    and scores them against the test data.

    Where the transition of the sampler adds noise in its last step, both ends of the same run are
    scored: `clean` without that noise, `published` with it. Sample i takes the data `given` of
    test field i.

    Arguments:
        denoiser: The diffusion model.
        constraint: The constraint.
        mirror: The maps of the space in which the model works; the identity if missing.
        restorer: Maps h of data space applied to the samples at the end, as f(g(x)): the baseline
            that uses learned maps but no mirror space.
        sampler: The sampler; `DPMSolver()` if missing.
        samples: The number of samples.
        batch_samples: The number of samples drawn at a time.
        task: The name of the task in the results.
        method: The name of the method in the results.
        seed: The seed of the samples.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        constraint: Constraint,
        mirror: Mirror | None = None,
        restorer: Mirror | None = None,
        sampler: Sampler | None = None,
        samples: PositiveInt = 128,
        batch_samples: PositiveInt = 64,
        task: str = "generation",
        method: str = "dm",
        seed: Seed = 0,
    ) -> None:
        super().__init__(mirror or IdentityMirror(), constraint, task, method, seed)
        save_recipe(self, "denoiser", "constraint", "mirror", "restorer", "sampler")
        if samples < 3:
            raise InputError(f"Generation expects at least 3 samples to compare, got {samples}.")
        self.denoiser = denoiser
        self.restorer = restorer
        self.sampler = sampler or DPMSolver()
        self.samples, self.batch_samples = samples, batch_samples

    @property
    def maps(self) -> Mirror:
        return self.mirror if self.restorer is None else self.restorer

    def setup(self, stage: str) -> None:
        if self.samples < self.trainer.world_size:
            wanted = self.trainer.world_size
            raise InputError(
                f"{wanted} processes need a sample each, got {self.samples}: draw more samples."
            )

    def on_test_start(self) -> None:
        super().on_test_start()
        self.given: list[Given] = []  # of the test fields, batch by batch

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.hold_out(batch["x"], batch.get("given"))
        if "given" in batch:
            self.given.append(batch["given"])
        if batch_idx == 0:
            self.pictures["data"] = batch["x"]

    def on_test_epoch_end(self) -> None:
        shape = self.mirror.shape(self.pictures["data"].shape[1:])
        mine = range(self.samples)[self.global_rank :: self.trainer.world_size]
        fields = gather_given(self.given)

        def draw(seeds: list[int]) -> tuple[Result, Tensor]:
            result = self.sampler(self.denoiser, shape, seeds)
            return result, self._decode(result.y)

        with progress(len(mine), "Drawing", "samples") as bar:
            for k in range(0, len(mine), self.batch_samples):
                part = mine[k : k + self.batch_samples]
                seeds = [derive_seed(self.seed, "test", i) for i in part]
                result, x_hat = self.account(self.denoiser, seeds, draw)
                given = given_rows(fields, part, x_hat)
                self.score("clean", x_hat, given)
                if not torch.equal(result.noisy, result.y):
                    self.score("published", self._decode(result.noisy), given)
                if k == 0:
                    self.pictures[self.method], self.pictures_given = x_hat, given
                bar.update(len(part))
        super().on_test_epoch_end()

    @torch.no_grad()
    def _decode(self, y: Tensor) -> Tensor:
        x_hat = self.mirror.inverse(y)
        return x_hat if self.restorer is None else self.restorer.inverse(self.restorer(x_hat))
