r"""Is the answer of a solver the posterior? A reference for the assimilation of Burgers fields.

A field follows from its first frame, which is given a Gaussian prior, fitted to the first frames
of training fields. Its posterior is sampled through the differentiable solver, twice: by chains
and by importance (`laplace.py`). Solvers on trained networks are held against it where checkpoints
are given, and the reference against the truth always. From the root:

    python -m benchmarks.assimilation [--problem configs/burgers] [--scale NAME] [--quick]
        [--dm CKPT] [--mdm CKPT --maps CKPT] [--solvers DPS CG-DPS PiGDM C-PiGDM DSG Trust]
        [--fields N] [--samples N] [--steps N] [--add DIR ...] [--out DIR]

All of it takes hours on one core: give each run some of the solvers and a folder of its own, and
these folders to a last one without checkpoints, by `--add`.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from constraints import InputError, derive_seed
from inverse import Pullback
from mdm import load_denoiser
from namm import load_mirror
from namm.cli import lightning as cli
from namm.cli.configs import Problem, file_of
from namm.training.checkpoint import build_part

from ..common.files import write_json
from ..common.numbers import Row, interval, tidy
from ..common.program import launch, options
from .figure import draw
from .problem import Assimilation, Plan, calibrate, reference, shape_of_prior
from .scores import METRICS, compare
from .tables import summarise

SOLVERS = {  # and their blocks in the file of the problem
    "DPS": "dps",
    "CG-DPS": "guided_dps",
    "PiGDM": "pigdm",
    "C-PiGDM": "cpigdm",
    "DSG": "dsg",
    "Trust": "trust",
}
OF_TRUTH = ("coverage", "rank_ks", "relative_error")  # what needs no reference
TRUTHS = ("test fields", "draws of the Gaussian")
QUICK = Plan(2, 32, 500, 4, 40, 64, 256, 256, 4)


def configuration(problem: Path, scale: str | None, solver: str = "dps") -> dict[str, Any]:
    r"""Returns the configuration of an inverse problem at a scale, with a solver."""
    file = file_of(problem, scale)
    stage = solver if solver.endswith("dps") else "dps"
    argv = ["test", "-c", f"{file}::inverse/{stage}"]
    argv += ["--model.init_args.denoiser.init_args.checkpoint=none"]
    if stage != solver:
        argv.append(f"--model.init_args.solver={json.dumps(Problem(file).blocks[solver])}")
    return cli.parse(argv)


def solve(
    args: argparse.Namespace, task: Assimilation, plan: Plan
) -> Iterator[tuple[str, Tensor, Row]]:
    r"""Yields the name of each solver and space, its samples `(P, n, 1, X, T)`, and its cost."""
    for space, checkpoint in (("data", args.dm), ("mirror", args.mdm)):
        if checkpoint is None:
            continue
        denoiser = load_denoiser(checkpoint)
        mirror = load_mirror(args.maps) if space == "mirror" else None
        operator = Pullback(task.operator, mirror) if mirror else task.operator
        x = task.truth[: plan.fields]
        m = task.measure(x).repeat_interleave(plan.samples, dim=0)
        pairs = [(i, k) for i in range(plan.fields) for k in range(plan.samples)]
        seeds = [derive_seed(plan.seed, "solve", i, k) for i, k in pairs]
        shape = mirror.shape(x.shape[1:]) if mirror else x.shape[1:]
        for name in args.solvers:
            config = configuration(args.problem, args.scale, SOLVERS[name])
            recipe = config["model"]["init_args"]["solver"]
            if args.steps:
                recipe["init_args"]["transition"]["init_args"]["steps"] = args.steps
            solver, answers, start = build_part(recipe), [], time.perf_counter()
            for part in range(0, len(m), plan.samples):  # field by field
                chosen = slice(part, part + plan.samples)
                y = solver(denoiser, operator, m[chosen], shape, seeds[chosen]).y
                with torch.no_grad():
                    answers.append(mirror.inverse(y) if mirror else y)
            seconds = (time.perf_counter() - start) / len(m)
            cost = solver.cost(denoiser)
            spent = {"calls": cost.calls, "vjps": cost.vjps, "seconds": tidy(seconds)}
            yield f"{name}, {space} space", torch.stack(answers), spent


def earlier(folder: Path, ours: Row) -> dict[str, Any]:
    r"""Returns the results of another run on the same measurements.

    Arguments:
        folder: The folder of the results.
        ours: The settings that fix the measurements and the reference of this run, by name.

    Raises:
        InputError: If there are none, or they are of other measurements.
    """
    file = folder / "results.json"
    if not file.is_file():
        raise InputError(f"There is no {file}: give --add the folder of a finished run.")
    results: dict[str, Any] = json.loads(file.read_text())
    theirs = {**results, **results["config"]}
    other = [f"{k} {theirs.get(k)}, not {v}" for k, v in ours.items() if theirs.get(k) != v]
    if other:
        raise InputError(f"{file} is of {'; '.join(other)}: give both runs the same options.")
    return results


def add(results: dict[str, Any], other: dict[str, Any]) -> None:
    r"""Adds to results the solvers that only the results of another run have."""
    known = {row["method"] for row in results["rows"]}
    results["rows"] += [row for row in other["rows"] if row["method"] not in known]
    results["frames"] |= {k: v for k, v in other["frames"].items() if k not in known}
    results["added"].append({key: other[key] for key in ("command", "cpu_minutes")})


def benchmark(args: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    r"""Returns the contents of `results.json`."""
    start = time.process_time()
    task = Assimilation(configuration(args.problem, args.scale), plan)
    decided = {"problem": str(args.problem), "observed": task.observed, "std": tidy(task.std)}
    others = [earlier(folder, {**decided, **asdict(plan)}) for folder in args.add]
    kept, exact, facts = reference(task, plan)
    print("reference sampled", flush=True)
    free = {"calls": 0, "vjps": 0, "seconds": 0.0}

    def methods() -> Iterator[tuple[str, Callable[[int], Tensor], Row]]:
        yield "reference", lambda i: task.rollout(kept[:, i]), free
        yield "exact samples", lambda i: task.rollout(exact[:, i]), free
        yield "prior samples", lambda i: task.draw(plan.samples, "blind", plan.seed, i), free
        for name, y, cost in solve(args, task, plan):
            yield name, y.__getitem__, cost

    rows, frames = [], {}
    for name, answers, cost in methods():
        each = [
            compare(answers(i), task.rollout(kept[:, i]), task.truth[i])
            for i in range(plan.fields)
        ]
        # of itself, the reference has nothing to say but what it makes of the truth
        known = [k for k in METRICS if name != "reference" or k in OF_TRUTH]
        n = plan.reference if name == "reference" else plan.samples
        for metric in known:
            values = [e[metric] for e in each]
            rows.append(
                {"task": "posterior", "method": name, "metric": metric, **interval(values)}
                | {"each": [tidy(v) for v in values], "n": n, "seed": plan.seed, **cost}
            )
        curves = {k: torch.tensor([e["frames"][k] for e in each]) for k in each[0]["frames"]}
        frames[name] = {
            k: [tidy(v) for v in curve.mean(dim=0).tolist()]
            for k, curve in curves.items()
            if k in known
        }
        print(f"{name} done", flush=True)
    truths = (task.truth[: plan.calibrated], task.draw(plan.calibrated, "truth", plan.seed))
    tested = [calibrate(task, x, plan, name) for x, name in zip(truths, TRUTHS, strict=True)]
    results = {
        "command": args.command,
        "added": [],
        "config": asdict(plan),
        **decided,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "cpu_minutes": round((time.process_time() - start) / 60, 1),
        "prior": shape_of_prior(task),
        "chains": facts,
        "calibration": [row for part, _ in tested for row in part],
        "ranks": {name: counts for name, (_, counts) in zip(TRUTHS, tested, strict=True)},
        "frames": frames,
        "rows": rows,
    }
    for other in others:
        add(results, other)
    return results


def main(argv: list[str] | None = None) -> None:
    r"""Runs the benchmark."""
    parser = options(__doc__, "docs/results/burgers-posterior")
    parser.add_argument("--problem", type=Path, default=Path("configs/burgers"))
    parser.add_argument("--scale", help="a folder of overlays in it, for example demo")
    parser.add_argument("--dm", help="the checkpoint of a diffusion model in data space")
    parser.add_argument("--mdm", help="the checkpoint of a diffusion model in mirror space")
    parser.add_argument("--maps", help="the checkpoint of the maps of mirror space")
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS), default=["DPS"])
    parser.add_argument("--fields", type=int, help="the number of test fields, at least 2")
    parser.add_argument("--samples", type=int, help="the number of samples, at least 19")
    parser.add_argument("--steps", type=int, help="the steps of the solvers")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    help = "the results of runs with the same problem and sizes, whose solvers are added"
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="DIR", help=help)
    args = parser.parse_args(argv)
    if (args.mdm is None) != (args.maps is None):
        parser.error("--mdm and --maps belong together: give both, or neither.")
    given = sys.argv[1:] if argv is None else argv
    args.command = shlex.join(["python", "-m", "benchmarks.assimilation", *given])
    plan = QUICK if args.quick else Plan()
    sizes = {k: getattr(args, k) for k in ("fields", "samples") if getattr(args, k)}
    results = benchmark(args, replace(plan, **sizes))
    write_json(results, args.out / "results.json", ("rows", "calibration", "chains"))
    (args.out / "results.md").write_text(summarise(results))
    draw(results, args.out / "posterior.png")


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    launch(main)
