r"""The test stage of inverse problems."""

__all__ = ["Inverse"]

from typing import Any

import torch
from torch import Tensor

from constraints import Constraint, InputError, derive_seed, noise
from mdm import Denoiser, Result
from namm import Evaluation, IdentityMirror, Mirror, describe_constraint, save_recipe

from .operators import LinearOperator, Operator, Pullback, Residual
from .solvers import Solver

TOLD = ("rejected", "unsolved")  # what a solver may report of each sample, and the results keep


class Inverse(Evaluation):
    r"""Creates the test stage that measures test fields, solves for them, and scores the answers:
    distance to the constraint, reduced chi2 (the mean squared misfit in units of the noise, where
    there is noise), relative error of the whole field, and the number of rejected guidances, with
    the guards of every distance. Beside the chi2 stands its floor, where the constraint knows one:
    no field that satisfies the constraint exactly fits better in the mean.

    Where the transition of the solver adds noise in its last step, both ends of the same run are
    scored: `clean` without that noise, `published` with it. The noise of a measurement is keyed by
    the field, so that every solver sees the same one.

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
        fields: int = 1,
        samples: int = 8,
        task: str = "inverse",
        method: str = "dps",
        seed: int = 0,
        first: int = 0,
    ) -> None:
        super().__init__(mirror or IdentityMirror(), constraint, task, method, seed)
        save_recipe(self, "denoiser", "constraint", "operator", "solver", "mirror")
        self.denoiser, self.operator, self.solver = denoiser, operator, solver
        if fields * samples < 3:
            raise ValueError(
                f"Inverse expects at least 3 samples to compare, got {samples} of {fields} fields."
            )
        if first < 0:
            raise ValueError(
                f"Inverse expects the position of a first field, counted from 0, got {first}."
            )
        if isinstance(operator, Residual) and describe_constraint(
            operator.constraint
        ) != describe_constraint(constraint):
            raise ValueError(
                "Inverse expects the constraint of a Residual operator to be the one by which "
                "answers are judged: change both alike."
            )
        self.first, self.fields, self.per_field = first, fields, samples
        self.observed: tuple[int, int] | None = None  # numbers measured, and free

    def setup(self, stage: str) -> None:
        if self.fields < self.trainer.world_size:
            raise InputError(
                f"{self.trainer.world_size} processes share the fields measured, which are only "
                f"{self.fields}: measure more fields, or use fewer devices."
            )

    def on_test_start(self) -> None:
        super().on_test_start()
        self.observed = None
        have = self.have()
        if have < self.first + self.fields:
            raise InputError(
                f"Inverse was asked to measure {self.fields} test fields from position "
                f"{self.first} on, counted from 0, but there are {have}: give fewer `fields` or "
                "an earlier `first`."
            )

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.hold_out(batch["x"])
        offset = batch["index"] - self.first
        measured = (offset >= 0) & (offset < self.fields)
        x, index = batch["x"][measured], batch["index"][measured].tolist()
        if not index:
            return
        m = self.operator.measure(x, [derive_seed(self.seed, "field", i) for i in index])
        unknowns = self.constraint.unknowns(x.shape[1:])
        noisy = bool(self.operator.std.all())
        if noisy and unknowns is not None and not isinstance(self.operator, Residual):
            self.observed = m[0].numel(), unknowns
        copies = range(self.per_field)
        seeds = [derive_seed(self.seed, "solve", i, k) for i in index for k in copies]
        x, m = (a.repeat_interleave(self.per_field, dim=0) for a in (x, m))
        operator = self.operator
        if not isinstance(self.mirror, IdentityMirror):
            operator = Pullback(operator, self.mirror)
        shape = self.mirror.shape(x.shape[1:])

        self.solver.prepare(self.denoiser, shape)

        def solve(seeds: list[int]) -> tuple[Result, Tensor]:
            result = self.solver(self.denoiser, operator, m[: len(seeds)], shape, seeds)
            with torch.no_grad():
                return result, self.mirror.inverse(result.y)

        result, x_hat = self.account(self.denoiser, seeds, solve)
        ends = {"clean": x_hat}
        if not torch.equal(result.noisy, result.y):
            with torch.no_grad():
                ends["published"] = self.mirror.inverse(result.noisy)
        report = {"rejected": [0] * len(x), **result.report}
        told = {k: torch.tensor(report[k], device=x.device) for k in TOLD if k in report}
        for name, end in ends.items():
            extra = dict(told)
            if noisy:
                misfit = (m - self.operator(end)) / self.operator.std
                extra["chi2"] = misfit.square().flatten(1).mean(dim=1)
            if not isinstance(self.operator, Residual):  # which has not seen the field
                error = torch.linalg.vector_norm((end - x).flatten(1), dim=1)
                truth = torch.linalg.vector_norm(x.flatten(1), dim=1)
                extra["relative_error"] = error / truth
            self.score(name, end, **extra)
        if not self.shown:
            asked = {"truth": x, "measured": self._seen(m, x)}
            asked = {"data": batch["x"]} if isinstance(self.operator, Residual) else asked
            self.shown = {**asked, self.method: x_hat}

    def rows(self) -> list[dict[str, Any]]:
        rows = super().rows()
        if self.observed:
            # the best that a field can do which satisfies the constraint exactly
            (data,) = (row for row in rows if row["method"] == "data")
            n, k = self.observed
            if (floor := (n - k) / n) > 0:
                ends = {"value": floor, "ci95": [floor, floor]}
                rows.append({**data, "metric": "chi2_floor", **ends})
        return rows

    def _seen(self, m: Tensor, x: Tensor) -> Tensor:
        if not isinstance(self.operator, LinearOperator):
            return torch.full_like(x, torch.nan)
        if m.shape == x.shape:
            return m
        # what no field leaves a trace of is left blank
        seen = self.operator.project(noise([("seen", 0)], x.shape[1:], x)) != 0
        return torch.where(seen, self.operator.pinv(m), torch.nan)
