r"""Does the answer for one measurement depend on the company it is solved in?

    python -m benchmarks.invariance [configs/burgers.yaml --scale demo] [--fields 16]

solves measurements of test fields with every solver on the trained networks of a run, in data
space and in mirror space: all together, one of them alone, all together again, and shared by two
gloo processes. Written are the largest absolute differences of the answers, whose size is about 1,
in float32 and, to tell rounding from the rest, in float64. Chains are shortened to 20 steps.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from namm.cli.plan import Job
from namm.training.checkpoint import build_part

from .common.program import launch
from .common.tables import table
from .solvers import SOLVERS, SPACES, Tuner, planned, recipe

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def short(name: str) -> dict[str, Any]:
    r"""Returns the recipe of a solver at its published step, on 20 steps (trust sampling: 5)."""
    solver = recipe(name, SOLVERS[name][2])
    transition = solver["init_args"]["transition"]
    steps = 5 if name == "Trust" else 20
    solver["init_args"]["transition"] = {
        **transition,
        "init_args": {**transition["init_args"], "steps": steps},
    }
    return solver


def solve(bench: Tuner, name: str, part: slice) -> Tensor:
    r"""Returns the answers to some of the measurements."""
    solver = build_part(short(name))
    m, seeds = bench.m[part], bench.seeds[part]
    return solver(bench.denoiser, bench.operator, m, bench.shape, seeds).y


def load(stage: Job, dtype: torch.dtype, fields: int) -> Tuner:
    r"""Returns networks and measurements in a precision."""
    bench = Tuner(stage, fields, seed=2, split="test")
    bench.denoiser.to(dtype)
    bench.operator.to(dtype)
    bench.m = bench.m.to(dtype)
    return bench


def share(rank: int, stages: dict[str, Job], fields: int, folder: Path) -> None:
    r"""Solves every other measurement in one of two processes, and gathers the answers."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    benches = {space: load(stage, torch.float64, fields) for space, stage in stages.items()}
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    answers = {}
    for space, bench in benches.items():
        for name in SOLVERS:
            mine = solve(bench, name, slice(rank, None, 2))
            both = [torch.empty_like(mine) for _ in range(2)]
            distributed.all_gather(both, mine)
            answers[f"{space}/{name}"] = torch.stack(both, dim=1).flatten(0, 1)
    if rank == 0:
        torch.save(answers, folder / "answers.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def main() -> None:
    r"""Measures, and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", type=Path, nargs="?", default=Path("configs/burgers"))
    parser.add_argument("--scale", default="demo", help="the scale of the run, as of `namm run`")
    parser.add_argument("--out", type=Path, default=Path("docs/results/burgers-demo-solvers"))
    parser.add_argument("--fields", type=int, default=16, help="the number of measurements, even")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    by_name = planned(options.problem, options.scale)
    stages = {space: by_name[name] for space, name in SPACES.items()}
    found: dict[str, dict[str, float]] = {}
    answers: dict[str, Tensor] = {}
    for space, stage in stages.items():
        for precision, dtype in DTYPES.items():
            bench = load(stage, dtype, options.fields)
            for name in SOLVERS:
                row = found.setdefault(f"{space}/{name}", {})
                together, again = (solve(bench, name, slice(None)) for _ in range(2))
                alone = solve(bench, name, slice(1, 2))
                assert together.isfinite().all(), f"{name} in {space} space is not finite."
                row[f"alone, {precision}"] = float((together[1:2] - alone).abs().max())
                row[f"again, {precision}"] = float((together - again).abs().max())
                answers[f"{space}/{name}"] = together  # float64 at last
                print(space, name, row, flush=True)
    (folder := options.out / "processes").mkdir(exist_ok=True)
    multiprocessing.spawn(share, (stages, options.fields, folder), nprocs=2)
    for key, both in torch.load(folder / "answers.pt", weights_only=True).items():
        found[key]["two processes, float64"] = float((answers[key] - both).abs().max())
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    names = list(next(iter(found.values())))
    rows = [[key, *(f"{row[name]:.1e}" for name in names)] for key, row in found.items()]
    text = table(["solver", *names], rows)
    (options.out / "invariance.md").write_text(text + "\n")
    content = {"fields": options.fields, "torch": torch.__version__, "differences": found}
    (options.out / "invariance.json").write_text(json.dumps(content, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    launch(main)
