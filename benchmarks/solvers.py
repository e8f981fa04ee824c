r"""Every solver on the same trained networks, in data space and in mirror space.

    namm run configs/burgers.yaml --scale demo --to dm
    python -m benchmarks.solvers [configs/burgers.yaml --scale demo] [--only DPS] [--spaces data]

takes the networks of a run, or the shipped ones with --pretrained, and for each solver and each
space makes two rows: with the published step size, and with one tuned on fields of the validation
split until the reduced chi2 is 1. DPS in data space has a third, guided by the constraint, whose
step and weight are tuned together. Every row is the plain command `namm test` that is printed, on
fields of the test split; `namm report` gathers them. A sample takes 100 calls of the denoiser or
fewer, 20 of the pseudo-inverse ones, and 1000 in a row on request.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from constraints import Constraint, derive_seed
from datamodules import FieldData, FieldDataset
from inverse import Pullback
from namm.cli import lightning as cli
from namm.cli.plan import Job, plan
from namm.cli.report import report
from namm.cli.runner import run_once
from namm.training.checkpoint import build_part

from .common.program import launch

SPACES = {"data": "inverse/dps", "mirror": "inverse/mirror_dps"}  # and the stages they take


def ddim(steps: int, eta: float = 1.0, start: float = 1.0) -> dict[str, Any]:
    return {"class_path": "mdm.DDIM", "init_args": {"steps": steps, "eta": eta, "start": start}}


# Class, the parameter that is tuned, its published value, and what else is fixed. The length of a
# step of trust sampling and of a normalised gradient, published as 1 for images of 3 x 256²
# numbers, is kept per square root of the number of entries of a field.
LENGTH = 32 / math.sqrt(3 * 256**2)
SOLVERS: dict[str, tuple[str, str, float, dict[str, Any]]] = {
    "DPS": ("DPS", "zeta", 0.05, {"transition": ddim(100)}),
    "DSG": ("DSG", "gamma", 0.2, {"transition": ddim(100)}),
    "LGD-MC(10)": (
        "LGDMC",
        "step_size",
        LENGTH,
        {"samples": 10, "normalise": True, "transition": ddim(100)},
    ),
    "Trust": ("Trust", "step_size", LENGTH, {"transition": ddim(20)}),
    "PiGDM": ("PiGDM", "weight", 6.0, {"iterations": 5, "transition": ddim(20, 0.0, 0.4)}),
    "C-PiGDM": ("CPiGDM", "weight", 15.0, {"iterations": 5, "transition": ddim(20, 0.0, 0.4)}),
    # the same guidance on the ancestral chain, from noise alone, at the weight of C-PiGDM, since
    # none is published
    "stochastic PiGDM": (
        "PiGDM",
        "weight",
        15.0,
        {"weighting": "conjugate", "integrate": True, "iterations": 5, "transition": ddim(20)},
    ),
}
LONG = {"class_path": "inverse.DPS", "init_args": {"zeta": 0.05, "transition": ddim(1000)}}


def recipe(name: str, value: float, **more: Any) -> dict[str, Any]:
    r"""Returns the class path and the arguments of a solver at a value of its parameter."""
    kind, parameter, _, fixed = SOLVERS[name]
    return {"class_path": f"inverse.{kind}", "init_args": {**fixed, parameter: value, **more}}


def planned(problem: Path, scale: str, pretrained: bool = False) -> dict[str, Job]:
    r"""Returns the stages of `namm run` by their names."""
    return {stage.name: stage for stage in plan(problem, scale, pretrained)}


class Tuner:
    r"""Creates what measures a solver on validation fields.

    Arguments:
        stage: The stage of `namm run` whose task, networks and space are used.
        fields: The number of fields, with one sample each.
        seed: The seed of the noise. The evaluation has another seed.
        split: The split of the fields.
    """

    def __init__(self, stage: Job, fields: int = 8, seed: int = 1, split: str = "val") -> None:
        model, data = (stage.config[key]["init_args"] for key in ("model", "data"))
        self.denoiser = build_part(model["denoiser"]).requires_grad_(False)
        self.constraint: Constraint = build_part(model["constraint"])
        self.operator = operator = build_part(model["operator"])
        build_part(stage.config["data"], FieldData).prepare_data()  # simulates what is missing
        dataset = FieldDataset(data["file"], split)
        x = torch.stack([dataset[i]["x"] for i in range(fields)])
        self.m = operator.measure(x, [derive_seed(seed, "field", i) for i in range(fields)])
        self.seeds = [derive_seed(seed, "solve", i) for i in range(fields)]
        self.shape = tuple(x.shape[1:])
        if model["mirror"] is not None:
            mirror = build_part(model["mirror"]).requires_grad_(False)
            self.operator = Pullback(operator, mirror)
            self.shape = mirror.shape(self.shape)

    def solve(self, solver: dict[str, Any]) -> Tensor:
        r"""Returns the clean answers of a solver in its space."""
        return build_part(solver)(self.denoiser, self.operator, self.m, self.shape, self.seeds).y

    @torch.no_grad()
    def misfit(self, y: Tensor) -> float:
        r"""Returns the reduced chi2 of answers in the space of the stage."""
        residual: Tensor = (self.m - self.operator(y)) / self.operator.std
        return float(residual.square().mean())

    def chi2(self, solver: dict[str, Any]) -> float:
        r"""Returns the reduced chi2 of a solver's answers."""
        return self.misfit(self.solve(solver))

    def distance(self, solver: dict[str, Any]) -> float:
        r"""Returns the mean distance of a solver's answers in data space; infinite where they
        explain the measurement more than a tenth worse than the noise does."""
        x = self.solve(solver)
        if self.misfit(x) > 1.1:
            return math.inf
        with torch.no_grad():
            return float(self.constraint(x).mean())

    def tune(self, name: str) -> tuple[float, list[tuple[float, float]]]:
        r"""Returns the value of a solver's parameter whose chi2 is nearest to 1, and all tried:
        seven from a sixteenth to 16 times the published one, then three bisections where 1 is
        crossed first, or around the nearest."""
        published = SOLVERS[name][2]
        top = 1.0 if name == "DSG" else math.inf
        values = sorted({min(top, value) for value in around(published)})
        tried = [(value, self.chi2(recipe(name, value))) for value in values]
        for _ in range(10 - len(tried)):
            tried.sort()
            pairs = list(pairwise(tried))
            crossing = [(a, b) for a, b in pairs if (a[1] - 1) * (b[1] - 1) < 0]
            nearest = min(pairs, key=lambda pair: sum(abs(math.log(chi2)) for _, chi2 in pair))
            (low, _), (high, _) = (crossing or [nearest])[0]
            value = math.sqrt(low * high)
            tried.append((value, self.chi2(recipe(name, value))))
        best, _ = min(tried, key=lambda pair: abs(math.log(max(pair[1], 1e-9))))
        return best, sorted(tried)

    def tune_guided(
        self, build: Callable[[float, float], dict[str, Any]], zeta: float, weight: float
    ) -> tuple[tuple[float, float], list[tuple[float, float, float]]]:
        r"""Returns the step and the weight of constraint-guided DPS with the least distance, and
        all tried: once, twice and four times the step of DPS, which has to make up for what
        guidance costs, and seven weights from a sixteenth to 16 times the configured one."""
        pairs = [(factor * zeta, w) for factor in (1.0, 2.0, 4.0) for w in around(weight)]
        tried = [(*pair, self.distance(build(*pair))) for pair in pairs]
        *best, _ = min(tried, key=lambda line: line[2])
        return (best[0], best[1]), tried


def around(value: float) -> list[float]:
    r"""Returns seven values from a sixteenth to 16 times a value."""
    return [value * 16 ** (k / 3) for k in range(-3, 4)]


class Bench:
    r"""Creates what evaluates solvers on the networks of a run, and keeps what it tuned.

    Arguments:
        options: The options.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        stages = planned(options.problem, options.scale, options.pretrained)
        self.stages = {space: stages[name] for space, name in SPACES.items()}
        self.solvers = {
            name: stage.config["model"]["init_args"]["solver"]["init_args"]
            for name, stage in stages.items()
            if name.startswith("inverse/")
        }
        self.runs = stages["inverse/dps"].runs
        self.out: Path = options.out or Path(f"{self.runs}-solvers")
        self.file = self.out / "tuning.json"
        self.tuning = json.loads(self.file.read_text()) if self.file.exists() else {}

    def tuned(self, key: str, tune: Callable[[], tuple[Any, Any]]) -> Any:
        r"""Returns the tuned value of a key, and tunes it if that is still to be done."""
        if key not in self.tuning:
            value, tried = tune()
            self.tuning[key] = {"tuned": value, "tried": tried}
            self.out.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.tuning, indent=1))
            print(f"{key}: {value}, of {tried}", flush=True)
        return self.tuning[key]["tuned"]

    def run(self) -> None:
        r"""Tunes and evaluates every solver in its spaces."""
        for space in self.options.spaces:
            stage = self.stages[space]
            tuner = Tuner(stage)
            for place, name in enumerate(SOLVERS):
                if name not in self.options.only:
                    continue
                value = self.tuned(f"{space}/{name}", partial(tuner.tune, name))
                self.evaluate(space, place, f"{name}, published", recipe(name, SOLVERS[name][2]))
                self.evaluate(space, place, f"{name}, tuned", recipe(name, value))
                if (space, name) == ("data", "DPS"):
                    self.guide(tuner, place, value)
                if name == "stochastic PiGDM" and "inverse/mirror_pigdm" in self.solvers:
                    weight = self.solvers["inverse/mirror_pigdm"]["weight"]
                    self.evaluate(space, place, f"{name}, pigdm.yaml", recipe(name, weight))
            if self.options.long:
                self.evaluate(space, len(SOLVERS), "DPS, 1000 calls", LONG)
        report(self.out, self.runs, replace=True)

    def guide(self, tuner: Tuner, place: int, zeta: float) -> None:
        r"""Tunes and evaluates constraint-guided DPS, from the step of DPS, in its place."""
        configured = self.solvers["inverse/guided_dps"]

        def build(zeta: float, weight: float) -> dict[str, Any]:
            return recipe("DPS", zeta, constraint=configured["constraint"], weight=weight)

        tune = partial(tuner.tune_guided, build, zeta, configured["weight"])
        best = self.tuned("data/guided", tune)
        self.evaluate("data", place, "constraint-guided DPS, tuned", build(*best))

    def evaluate(self, space: str, place: int, method: str, solver: dict[str, Any]) -> None:
        r"""Runs one command, unless its results are there. Results of another configuration, or of
        other networks, are refused. The place of the solver in the report does not depend on
        `--only`."""
        method = f"mirror-{method}" if space == "mirror" else method
        version = f"{space}/{place:02d}_{method.replace(' ', '_').replace(',', '')}"
        argv = [*self.stages[space].argv, f"--model.init_args.solver={json.dumps(solver)}"]
        argv += [f"--model.init_args.method={method}", f"--model.init_args.task={space} space"]
        argv += [f"--model.init_args.fields={self.options.fields}", "--model.init_args.samples=2"]
        argv += ["--trainer.logger.save_dir", str(self.out.parent)]
        argv += ["--trainer.logger.name", self.out.name, "--trainer.logger.version", version]
        config = cli.parse(argv)
        stage = replace(self.stages[space], name=version, argv=argv, runs=self.out, config=config)
        run_once(stage, "", f"Move {self.out} away, or give another folder with --out.")


def main() -> None:
    r"""Tunes and evaluates every solver in both spaces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", type=Path, nargs="?", default=Path("configs/burgers"))
    parser.add_argument("--scale", default="demo", help="the scale of the run, as of `namm run`")
    parser.add_argument("--pretrained", action="store_true", help="take the shipped weights")
    parser.add_argument("--out", type=Path, help="the folder of the results, beside the run's")
    parser.add_argument("--only", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--spaces", nargs="+", default=list(SPACES), choices=list(SPACES))
    parser.add_argument("--fields", type=int, default=16, help="of the test split, 2 samples each")
    parser.add_argument("--long", action="store_true", help="add DPS with 1000 calls")
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    launch(main)
