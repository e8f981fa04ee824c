r"""How fast are fields simulated, and how well do they satisfy their constraints?

    python -m benchmarks.data [--jax-python PATH] [--parts burgers speed fields] [--threads 1 2]

measures three things: 10,000 fields of Burgers, simulated, and in a file; trajectories of the
Kolmogorov flow in a second, beside jax-cfd if a Python that has `jax` and `jax-cfd` is given, from
the same states, in float32, with compilation excluded, and by turns, so that both see the same
load of the machine; and the distances of 1,000 trajectories of full size to their constraints.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import numpy as np
import torch
from torch import Tensor

from constraints import Burgers, Divergence, NavierStokes, Sum
from datamodules import BurgersData, KolmogorovData

from ..common.numbers import tidy
from ..common.program import launch, options
from ..common.tables import join, table

BATCHES = {1: 22, 16: 22, 64: 6}  # frames to time: 22 are a trajectory
START = 3.0
FRAMES = 8
CHUNK = 50


class JaxCfd:
    r"""Creates the process that runs jax-cfd.

    Arguments:
        python: Its Python.
        start: The states to start from, with shape `(B, 2, X, Y)`.
        folder: A folder to exchange states in.
    """

    def __init__(self, python: str, start: Tensor, folder: Path) -> None:
        np.save(folder / "start.npy", start.numpy())
        script = Path(__file__).with_name("with_jax.py")
        self.folder = folder
        self.process = subprocess.Popen(
            [python, str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = json.loads(self._read())

    def seconds(self, batch: int, frames: int) -> float:
        return float(self._ask(f"{batch} {frames}"))

    def states(self, batch: int) -> Tensor:
        r"""Returns the states after a frame."""
        self._ask(f"{batch} 1 after.npy")
        return torch.from_numpy(np.load(self.folder / "after.npy"))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, line: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("The process of jax-cfd has ended, see its error above.")
        return line


def extent(seconds: list[float]) -> dict[str, float]:
    r"""Returns the median of some times, and the least and the largest."""
    found = {"median": statistics.median(seconds), "least": min(seconds), "largest": max(seconds)}
    return {key: tidy(value) for key, value in found.items()}


def measure_burgers(args: argparse.Namespace) -> dict[str, Any]:
    r"""Returns the seconds of the simulation, and those from nothing to a file."""
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        simulated, written = [], []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                file, sizes = f"{folder}/fields.h5", {"train": args.burgers}
                data = BurgersData(Burgers(), file=file, sizes=sizes, seed=args.seed)
                begin = time.perf_counter()
                for start in range(0, args.burgers, 500):
                    data.simulate(min(500, args.burgers - start), args.seed, start)
                simulated.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                data.prepare_data()
                written.append(time.perf_counter() - begin)
        for kind, seconds in (("simulated", simulated), ("checked and written", written)):
            rows.append({"threads": threads, "kind": kind, "seconds": extent(seconds)})
    return {"fields": args.burgers, "rows": rows}


def measure_speed(args: argparse.Namespace) -> dict[str, Any]:
    r"""Returns the seconds of trajectories, ours by turns with jax-cfd's."""
    flow = NavierStokes()
    data = KolmogorovData(Divergence(), frames=1, start=START, file="", sizes={})
    start = data.simulate(max(BATCHES), args.seed)
    steps = (round(START / flow.dt) + FRAMES - 1) * flow.substeps
    results: dict[str, Any] = {"steps": steps, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        jax = JaxCfd(args.jax_python, start, Path(folder)) if args.jax_python else None
        results["versions"] = jax.versions if jax else {}
        for batch, frames in BATCHES.items():
            row: dict[str, Any] = {"batch": batch, "steps": frames * flow.substeps}
            ours: dict[int, list[float]] = {n: [] for n in args.threads}
            theirs: list[float] = []
            if jax:
                apart = (flow.step(start[:batch]) - jax.states(batch)).abs().max()
                row["apart"] = float(f"{float(apart):.2g}")
                jax.seconds(batch, frames)  # compiles
            for _ in range(args.repeats * (16 if batch == 1 else 2)):
                for threads, seconds in ours.items():
                    torch.set_num_threads(threads)
                    begin = time.perf_counter()
                    flow.roll(start[:batch], frames, first=frames)
                    seconds.append(time.perf_counter() - begin)
                if jax:
                    theirs.append(jax.seconds(batch, frames))
            row["ours"] = {str(n): extent(seconds) for n, seconds in ours.items()}
            row["jax-cfd"] = extent(theirs) if theirs else None
            results["rows"].append(row)
            print(row, flush=True)
        if jax:
            jax.close()
    return results


def measure_fields(args: argparse.Namespace) -> dict[str, Any]:
    r"""Returns the largest distances of trajectories of full size."""
    torch.set_num_threads(args.threads[0])
    terms = {"Divergence": Divergence(), "NavierStokes": NavierStokes()}
    data = KolmogorovData(Sum(list(terms.values())), frames=FRAMES, file="", sizes={})
    largest: dict[str, float] = {}
    redrawn, begin = 0, time.process_time()
    squares, speed = 0.0, 0.0
    with torch.no_grad():
        for row in range(0, args.fields, CHUNK):
            n = min(CHUNK, args.fields - row)
            x, again = data._simulate(n, args.seed, row)
            redrawn += again
            squares += float(x.square().mean()) * n / args.fields
            speed = max(speed, float(x.abs().max()))
            for name, term in terms.items():
                for precision, fields in (("float32", x.float()), ("float64", x)):
                    distance = float(term(fields).max())
                    key = f"{name}, {precision}"
                    largest[key] = max(largest.get(key, 0.0), distance)
            print(row + n, largest, flush=True)
    return {
        "fields": args.fields,
        "largest": {key: float(f"{value:.3g}") for key, value in largest.items()},
        "redrawn": redrawn,
        "std": round(math.sqrt(squares), 4),
        "largest_velocity": round(speed, 3),
        "core_seconds": round(time.process_time() - begin, 1),
    }


MEASURES = {"burgers": measure_burgers, "speed": measure_speed, "fields": measure_fields}


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the tables as Markdown."""
    parts = ["# Data: speed and distances"]
    if burgers := results.get("burgers"):
        rows = [
            [r["threads"], r["kind"], *(f"{s:.2f}" for s in r["seconds"].values())]
            for r in burgers["rows"]
        ]
        parts += [
            f"## {burgers['fields']:,} fields of Burgers",
            table(["threads", "fields", "seconds, median", "least", "largest"], rows),
        ]
    if speed := results.get("speed"):
        rows = []
        for r in speed["rows"]:
            jax, rate = r["jax-cfd"], r["batch"] * r["steps"] / speed["steps"]
            for threads, ours in r["ours"].items():
                cells = [
                    f"{rate / ours['median']:.2f}",
                    f"{rate / jax['median']:.2f}" if jax else "-",
                ]
                cells += [f"{jax[k] / ours[k]:.2f}" if jax else "-" for k in ("median", "least")]
                cells += [r.get("apart", "-")]
                for s in (ours, jax):
                    cells += [f"{s['least']:.3g} to {s['largest']:.3g}"] if s else ["-"]
                rows.append([r["batch"], r["steps"], threads, *cells])
        versions = ", ".join(f"{k} {v}" for k, v in speed["versions"].items()) or "jax-cfd not run"
        head = ["batch", "steps timed", "our threads", "ours", "jax-cfd", "ratio of medians"]
        head += ["of least", "apart", "our seconds", "seconds of jax-cfd"]
        parts += ["## Kolmogorov flow, trajectories in a second", table(head, rows)]
        parts += [f"{speed['steps']} steps; {versions}."]
    if fields := results.get("fields"):
        rows = [[key, f"{value:.2e}"] for key, value in fields["largest"].items()]
        facts = ("fields", "redrawn", "std", "largest_velocity", "core_seconds")
        parts += [
            f"## Kolmogorov flow, {FRAMES} states from t = {START:g}",
            table(["constraint", "largest distance"], rows),
            ", ".join(f"{key} {fields[key]}" for key in facts) + ".",
        ]
    return join(*parts, "## Setting", ", ".join(f"{k} {v}" for k, v in results["config"].items()))


def main() -> None:
    r"""Measures, and writes the results. What is not measured again is kept."""
    parser = options(__doc__, "docs/results/data")
    parser.add_argument("--jax-python", help="a Python that has jax and jax-cfd")
    parser.add_argument("--parts", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--burgers", type=int, default=10_000, help="the number of its fields")
    parser.add_argument("--fields", type=int, default=1000, help="the number of trajectories")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for part in args.parts:
        begin = time.perf_counter()
        results[part] = MEASURES[part](args)
        results[part]["wall_seconds"] = round(time.perf_counter() - begin, 1)
    results["config"] = {
        "seed": args.seed,
        "repeats": args.repeats,
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    file.write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "results.md").write_text(text := summarise(results))
    print(text)


if __name__ == "__main__":
    launch(main)
