r"""The test stage of inverse problems."""

__all__ = ["Inverse"]

from typing import Any

import torch
from torch import Tensor

from constraints import (
    Batch,
    Constraint,
    InputError,
    Natural,
    PositiveInt,
    Seed,
    derive_seed,
    noise,
    take,
)
from mdm import Denoiser, Result
from namm import Evaluation, IdentityMirror, Mirror, save_recipe

from .operators.base import LinearOperator, Operator
from .operators.pullback import Pullback
from .solvers.base import Solver

REPORTED = ("rejected", "unsolved")  # numbers per sample in the report that the results keep


class Inverse(Evaluation):
    r"""Creates the test stage that measures test fields, solves for them, and scores the answers:
    distance to the constraint, reduced chi2 (the mean squared misfit in units of the noise, where
    there is noise), relative error of the whole field, and the number of rejected guidances, with
    the guards of every distance. Beside the chi2 stands its floor, where the constraint knows one:
    no field that satisfies the constraint exactly fits better in the mean.

    Where the transition of the solver adds noise in its last step, both ends of the same run are
    scored: `clean` without that noise, `published` with it. The noise of a measurement is keyed by
    the field, so that every solver sees the same noise.

    Arguments:
        denoiser: The diffusion model.
        constraint: The constraint.
        operator: The operator on data space.
        solver: The solver.
        mirror: The maps of the space in which the model works; the identity if missing.
        fields: The number of test fields measured.
        samples: The number of samples for each measurement.
        task: The name of the task in the results.
        method: The name of the method in the results.
        seed: The seed of the samples and of the measurement noise.
        first: The position of the first field measured among the test fields. A field has the same
            measurement and the same samples whichever others are measured with it.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        constraint: Constraint,
        operator: Operator,
        solver: Solver,
        mirror: Mirror | None = None,
        fields: PositiveInt = 1,
        samples: PositiveInt = 8,
        task: str = "inverse",
        method: str = "dps",
        seed: Seed = 0,
        first: Natural = 0,
    ) -> None:
        super().__init__(mirror or IdentityMirror(), constraint, task, method, seed)
        save_recipe(self, "denoiser", "constraint", "operator", "solver", "mirror")
        self.denoiser, self.operator, self.solver = denoiser, operator, solver
        if fields * samples < 3:
            raise InputError(f"Inverse needs 3 samples or more, got {samples} of {fields} fields.")
        operator.check_constraint(constraint)
        self.first, self.fields, self.per_field = first, fields, samples
        self.prepared: Solver | None = None
        self.counts: tuple[int, int] | None = None  # of numbers measured, and of free numbers
        self.unguided = 0  # samples that went without guidance at more than half of the levels

    def setup(self, stage: str) -> None:
        size = self.trainer.world_size
        if self.fields < size:
            raise InputError(f"{size} processes share {self.fields} fields: measure more fields.")

    def on_test_start(self) -> None:
        super().on_test_start()
        self.prepared = self.counts = None
        self.unguided = 0
        if self.test_fields() < self.first + self.fields:
            raise InputError(
                f"Inverse measures {self.fields} test fields from position {self.first} on, but "
                f"there are {self.test_fields()}: give fewer `fields` or an earlier `first`."
            )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.hold_out(batch["x"], batch.get("given"))
        offset = batch["index"] - self.first
        chosen = (offset >= 0) & (offset < self.fields)
        x, index = batch["x"][chosen], batch["index"][chosen].tolist()
        if not index:
            return
        given = take(batch.get("given"), chosen)
        m = self.operator.measure(x, [derive_seed(self.seed, "field", i) for i in index], given)
        free = self.constraint.unknowns(x.shape[1:])
        noisy = bool(self.operator.std.all())
        if noisy and free is not None and self.operator.observes:
            self.counts = m[0].numel(), free
        copies = range(self.per_field)
        seeds = [derive_seed(self.seed, "solve", i, k) for i in index for k in copies]
        rows = torch.arange(len(x), device=x.device).repeat_interleave(self.per_field)
        x, m, given = x[rows], m[rows], take(given, rows)
        operator = self.operator
        if not isinstance(self.mirror, IdentityMirror):
            operator = Pullback(operator, self.mirror)
        shape = self.mirror.shape(x.shape[1:])
        solver = self.prepared = self.prepared or self.solver.prepare(self.denoiser, shape)

        def solve(seeds: list[int]) -> tuple[Result, Tensor]:
            few = slice(len(seeds))
            data = take(given, few)
            result = solver(self.denoiser, operator, m[few], shape, seeds, data)
            with torch.no_grad():
                return result, self.mirror.inverse(result.y)

        result, x_hat = self.account(self.denoiser, seeds, solve)
        ends = {"clean": x_hat}
        if result.noisy is not result.y and not torch.equal(result.noisy, result.y):
            with torch.no_grad():
                ends["published"] = self.mirror.inverse(result.noisy)
        report = {"rejected": [0] * len(x), **result.report}
        self.unguided += sum(2 * n > report.get("guided", 0) for n in report["rejected"])
        reported = {k: torch.tensor(report[k], device=x.device) for k in REPORTED if k in report}
        for name, end in ends.items():
            extra = dict(reported)
            if noisy:
                misfit = (m - self.operator.predict(end, given)[0]) / self.operator.std
                extra["chi2"] = misfit.square().flatten(1).mean(dim=1)
            if self.operator.observes:
                error = torch.linalg.vector_norm((end - x).flatten(1), dim=1)
                truth = torch.linalg.vector_norm(x.flatten(1), dim=1)
                extra["relative_error"] = error / truth
            self.score(name, end, given, **extra)
        if not self.pictures:
            pictures = {"data": batch["x"] if given is None else x}
            if self.operator.observes:
                pictures = {"truth": x, "measured": self._picture(m, x)}
            self.pictures = {**pictures, self.method: x_hat}
            self.pictures_given = given

    def rows(self) -> list[dict[str, Any]]:
        rows = super().rows()
        if self.counts:
            # the best fit of a field that satisfies the constraint exactly
            (data,) = (row for row in rows if row["method"] == "data")
            n, free = self.counts
            if (floor := (n - free) / n) > 0:
                ends = {"value": floor, "ci95": [floor, floor]}
                rows.append({**data, "metric": "chi2_floor", **ends})
        return rows

    def notes(self) -> list[str]:
        n = int(self._sum(torch.tensor(self.unguided)))
        left = f"{self.method} left its guidance out at more than half of the levels"
        return [f"{left} of {n} samples: they know little of the measurement."] if n else []

    def _picture(self, m: Tensor, x: Tensor) -> Tensor:
        r"""Returns measurements as fields, with NaN where no field leaves a trace in them."""
        if not isinstance(self.operator, LinearOperator):
            return torch.full_like(x, torch.nan)
        if m.shape == x.shape:
            return m
        visible = self.operator.visible(noise([("seen", 0)], x.shape[1:], x)) != 0
        return torch.where(visible, self.operator.pinv(m), torch.nan)
