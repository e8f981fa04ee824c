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
from namm.evaluation.results import markdown

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


def spread(seconds: list[float]) -> dict[str, float]:
    r"""Returns the median of some times, and the least and the largest."""
    found = statistics.median(seconds), min(seconds), max(seconds)
    rounded = [float(f"{s:.4g}") for s in found]
    return dict(zip(("median", "least", "largest"), rounded, strict=True))


def measure_burgers(options: argparse.Namespace) -> dict[str, Any]:
    r"""Returns the seconds of the simulation, and those from nothing to a file."""
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        simulated, written = [], []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                file, sizes = f"{folder}/fields.h5", {"train": options.burgers}
                data = BurgersData(Burgers(), file=file, sizes=sizes, seed=options.seed)
                begin = time.perf_counter()
                for start in range(0, options.burgers, 500):
                    data.simulate(min(500, options.burgers - start), options.seed, start)
                simulated.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                data.prepare_data()
                written.append(time.perf_counter() - begin)
        for kind, seconds in (("simulated", simulated), ("checked and written", written)):
            rows.append({"threads": threads, "kind": kind, "seconds": spread(seconds)})
    return {"fields": options.burgers, "rows": rows}


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    r"""Returns the seconds of trajectories, ours by turns with those of jax-cfd."""
    flow = NavierStokes()
    data = KolmogorovData(Divergence(), frames=1, start=START, file="", sizes={})
    start = data.simulate(max(BATCHES), options.seed)
    steps = (round(START / flow.dt) + FRAMES - 1) * flow.substeps
    results: dict[str, Any] = {"steps": steps, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        jax = JaxCfd(options.jax_python, start, Path(folder)) if options.jax_python else None
        results["versions"] = jax.versions if jax else {}
        for batch, frames in BATCHES.items():
            row: dict[str, Any] = {"batch": batch, "steps": frames * flow.substeps}
            ours: dict[int, list[float]] = {n: [] for n in options.threads}
            theirs: list[float] = []
            if jax:
                apart = (flow.step(start[:batch]) - jax.states(batch)).abs().max()
                row["apart"] = float(f"{float(apart):.2g}")
                jax.seconds(batch, frames)  # compiles
            for _ in range(options.repeats * (16 if batch == 1 else 2)):
                for threads, seconds in ours.items():
                    torch.set_num_threads(threads)
                    begin = time.perf_counter()
                    flow.roll(start[:batch], frames, first=frames)
                    seconds.append(time.perf_counter() - begin)
                if jax:
                    theirs.append(jax.seconds(batch, frames))
            row["ours"] = {str(n): spread(seconds) for n, seconds in ours.items()}
            row["jax-cfd"] = spread(theirs) if theirs else None
            results["rows"].append(row)
            print(row, flush=True)
        if jax:
            jax.close()
    return results


def measure_fields(options: argparse.Namespace) -> dict[str, Any]:
    r"""Returns the largest distances of trajectories of full size."""
    torch.set_num_threads(options.threads[0])
    terms = {"Divergence": Divergence(), "NavierStokes": NavierStokes()}
    data = KolmogorovData(Sum(list(terms.values())), frames=FRAMES, file="", sizes={})
    largest: dict[str, float] = {}
    redrawn, begin = 0, time.process_time()
    squares, speed = 0.0, 0.0
    with torch.no_grad():
        for row in range(0, options.fields, CHUNK):
            n = min(CHUNK, options.fields - row)
            x, again = data._simulate(n, options.seed, row)
            redrawn += again
            squares += float(x.square().mean()) * n / options.fields
            speed = max(speed, float(x.abs().max()))
            for name, term in terms.items():
                for precision, fields in (("float32", x.float()), ("float64", x)):
                    distance = float(term(fields).max())
                    key = f"{name}, {precision}"
                    largest[key] = max(largest.get(key, 0.0), distance)
            print(row + n, largest, flush=True)
    return {
        "fields": options.fields,
        "largest": {key: float(f"{value:.3g}") for key, value in largest.items()},
        "redrawn": redrawn,
        "std": round(math.sqrt(squares), 4),
        "largest_velocity": round(speed, 3),
        "core_seconds": round(time.process_time() - begin, 1),
    }


MEASURES = {"burgers": measure_burgers, "speed": measure_speed, "fields": measure_fields}


def table(header: list[str], rows: list[list[Any]]) -> str:
    r"""Returns a table in Markdown."""
    return markdown([header, ["---"] * len(header), *rows])


def summarise(results: dict[str, Any]) -> str:
    r"""Returns the results as Markdown, made from the contents of `results.json`."""
    out = [
        "# Data: speed and distances",
        "Made by `python -m benchmarks.data`, all of it from `results.json`.",
    ]
    if burgers := results.get("burgers"):
        rows = [
            [r["threads"], r["kind"], *(f"{s:.2f}" for s in r["seconds"].values())]
            for r in burgers["rows"]
        ]
        last = [r for r in burgers["rows"] if r["kind"] == "simulated"][-1]
        seconds = last["seconds"]["median"]
        out += [
            f"## {burgers['fields']:,} fields of Burgers",
            table(["threads", "fields", "seconds, median", "least", "largest"], rows),
            f"The goal is 5 s for the simulation: {'met' if seconds <= 5 else 'missed'} "
            f"({seconds:.2f} s with {last['threads']} threads).",
        ]
    if speed := results.get("speed"):
        rows = []
        for r in speed["rows"]:
            jax, rate = r["jax-cfd"], r["batch"] * r["steps"] / speed["steps"]
            for threads, seconds in r["ours"].items():
                cells = [f"{rate / seconds['median']:.2f}"]
                cells += [f"{rate / jax['median']:.2f}"] if jax else ["-"]
                for key in ("median", "least"):
                    cells += [f"{jax[key] / seconds[key]:.2f}"] if jax else ["-"]
                cells += [r.get("apart", "-")]
                for s in (seconds, jax):
                    cells += [f"{s['least']:.3g} to {s['largest']:.3g}"] if s else ["-"]
                rows.append([r["batch"], r["steps"], threads, *cells])
        versions = ", ".join(f"{k} {v}" for k, v in speed["versions"].items())
        out += [
            "## Kolmogorov flow, trajectories in a second",
            f"64x64 points and {speed['steps']} steps of van Leer and forward Euler in float32, "
            "of which some are timed. "
            f"jax-cfd ({versions or 'not run'}) is jitted and vmapped, compilation excluded, and "
            "uses all cores; both run by turns from the same states. *Apart*: the largest "
            "difference of a velocity after a frame.",
            table(
                ["batch", "steps timed", "our threads", "ours", "jax-cfd"]
                + ["ratio of medians", "of least", "apart"]
                + ["our seconds", "seconds of jax-cfd"],
                rows,
            ),
        ]
        if speed["versions"]:
            cores = max(speed["rows"][0]["ours"], key=int)
            ratios = {
                r["batch"]: r["jax-cfd"]["median"] / r["ours"][cores]["median"]
                for r in speed["rows"]
            }
            text = ", ".join(
                f"{ratio:.2f} at batch {batch} ({'met' if ratio >= 1.5 else 'missed'})"
                for batch, ratio in ratios.items()
            )
            out += [
                f"The goal is a ratio of 1.5 of the medians. With {cores} threads: {text}. On a "
                "machine with other work the least times say more."
            ]
    if fields := results.get("fields"):
        rows = [[key, f"{value:.2e}"] for key, value in fields["largest"].items()]
        out += [
            "## Kolmogorov flow, distances of trajectories",
            f"{fields['fields']} trajectories of {FRAMES} states of 64x64 points, the first at "
            f"t = {START:g}. Drawn again because they were not finite: {fields['redrawn']}. "
            f"The std of all velocities is {fields['std']}, the largest is "
            f"{fields['largest_velocity']}. It took {fields['core_seconds']} core seconds, with "
            "the distances.",
            table(["constraint", "largest distance"], rows),
        ]
    out += ["## Setting", ", ".join(f"{k} {v}" for k, v in results["config"].items())]
    return "\n\n".join(out) + "\n"


def main() -> None:
    r"""Measures, and writes the results. What is not measured again is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jax-python", help="a Python that has jax and jax-cfd")
    parser.add_argument("--out", type=Path, default=Path("docs/results/data"))
    parser.add_argument("--parts", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--burgers", type=int, default=10_000, help="the number of its fields")
    parser.add_argument("--fields", type=int, default=1000, help="the number of trajectories")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for part in options.parts:
        begin = time.perf_counter()
        results[part] = MEASURES[part](options)
        results[part]["wall_seconds"] = round(time.perf_counter() - begin, 1)
    results["config"] = {
        "seed": options.seed,
        "repeats": options.repeats,
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    file.write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "results.md").write_text(text := summarise(results))
    print(text)


if __name__ == "__main__":
    main()
