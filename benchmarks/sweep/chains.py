r"""Chains of stages for sweeps over trainings, with their rows and their table.

A chain is the stages of a problem, each the plain command of `namm run` with a few options more,
in a folder of its own. A stage that is finished is skipped, and one that was stopped goes on, so
that a sweep can be stopped at any time and given again.
"""

__all__ = ["Chain", "parse", "run_chains", "summary", "write"]

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shlex import join
from statistics import fmean
from typing import Any

import torch

from constraints import InputError
from namm.cli import lightning as cli
from namm.cli.plan import Job, changes, reads
from namm.cli.runner import run_once
from namm.evaluation.results import markdown, with_half_width
from namm.evaluation.training_costs import compute, training
from namm.training.io import atomic

GUARDS = ("mmd", "spread", "spectrum", "cycle")
TRAINED = ("namm", "mdm", "finetune")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Chain:
    r"""Some stages of a problem under one setting and one seed.

    Arguments:
        name: The name of the setting.
        seed: The seed of all its stages, the samples that are scored included.
        stages: The names of its stages.
        factor: By how much the steps of training are more than configured.
        extra: Further options, by stage.
    """

    name: str
    seed: int
    stages: Sequence[str]
    factor: float = 1.0
    extra: dict[str, list[str]] = field(default_factory=dict)

    def folder(self, runs: Path) -> Path:
        r"""Returns the folder of its stages, below the folder of all chains."""
        return runs / f"{self.name.replace(' ', '_')}-{self.seed}"


def parse(doc: str, name: str) -> argparse.Namespace:
    r"""Returns the options of a sweep."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("problem", type=Path, nargs="?", default=Path("configs/burgers"))
    parser.add_argument("--scale", default="demo", help="the scale, as of `namm run`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the trainings")
    parser.add_argument("--runs", type=Path, default=Path("runs/sweep"), help="of all chains")
    parser.add_argument("--out", type=Path, default=Path("docs/results") / name)
    parser.add_argument(
        "--steps", type=float, default=1.0, help="the share of the configured steps, for a trial"
    )
    return parser.parse_args(namespace=argparse.Namespace(name=name))


def chain_stages(chain: Chain, planned: Sequence[Job], runs: Path) -> Iterator[Job]:
    r"""Yields the stages of a chain."""
    folder = chain.folder(runs)
    made: list[Job] = []
    for stage in (stage for stage in planned if stage.name in chain.stages):
        argv, before = stage.argv, f"{stage.runs}/"
        options = changes(stage.config, lambda text, b=before: text.replace(b, f"{folder}/"))
        options += ["--trainer.logger.save_dir", str(runs), "--trainer.logger.name", folder.name]
        options += ["--seed_everything", str(chain.seed)]
        if stage.name in TRAINED and chain.factor != 1:
            options += ["--trainer.max_steps", str(steps(stage, chain.factor))]
        options += chain.extra.get(stage.name, [])
        # before the checkpoint from which it goes on, which is not in the key
        end = len(argv) - 2 if argv[-2:] == ["--ckpt_path", "last"] else len(argv)
        config = cli.parse([*argv[:end], *options])
        argv = [*argv[:end], *options, *argv[end:]]
        inputs = {other.name: other.key for other in made if reads(config, other.folder)}
        stage = replace(stage, argv=argv, runs=folder, config=config, inputs=inputs)
        made.append(stage)
        yield stage


def steps(stage: Job, factor: float) -> int:
    r"""Returns the steps of a training stage times a factor."""
    configured = stage.config["trainer"]["max_steps"]
    if configured < 1:
        raise InputError(
            f"The stage '{stage.name}' is configured by epochs, and a sweep changes its steps: "
            "choose a --scale whose stages set trainer.max_steps."
        )
    return max(1, round(factor * configured))


def run_chains(chains: Sequence[Chain], planned: Sequence[Job], runs: Path) -> Rows:
    r"""Runs the stages of chains that are not finished, and returns the rows of all
    evaluations, each with its setting and the counted operations of all training behind it."""
    for chain in chains:
        for stage in chain_stages(chain, planned, runs):
            remedy = "Move it away, or give another folder with --runs."
            run_once(stage, f"{chain.name}, seed {chain.seed}: ", remedy)
    return [row for chain in chains for row in rows_of(chain, runs)]


def rows_of(chain: Chain, runs: Path) -> Rows:
    r"""Returns the rows of a finished chain."""
    trained = training(chain.folder(runs))
    rows = []
    for name in (name for name in chain.stages if name.startswith("generation")):
        results = json.loads((chain.folder(runs) / name / "results.json").read_text())
        common = {
            "setting": chain.name,
            "training_seed": chain.seed,
            "training_flops": compute(results, trained),
        }
        rows += [
            {**common, **row}
            for row in results["rows"]
            if row["method"] != "data" and row["protocol"] == "clean"
        ]
    return rows


def summary(rows: Rows) -> dict[tuple[str, str], dict[str, Any]]:
    r"""Returns, by setting and method, the mean of each metric over the training seeds, the mean
    operations of training as `training_flops`, and the rows of the distance as `each`."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for key in dict.fromkeys((row["setting"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["setting"], row["method"]) == key]
        each = [row for row in mine if row["metric"] == "distance"]
        found[key] = {
            metric: fmean(row["value"] for row in mine if row["metric"] == metric)
            for metric in dict.fromkeys(row["metric"] for row in mine)
        }
        flops = fmean(row["training_flops"] for row in each)
        found[key] |= {"training_flops": flops, "each": each}
    return found


def table(rows: Rows) -> str:
    r"""Returns the Markdown table: a line per setting and method, with means over the training
    seeds, and the distance of each seed with the half-width of its 95 % interval. The column
    "times lower" compares the distance with the first method of the same setting."""
    found = summary(rows)
    seeds = list(dict.fromkeys(row["training_seed"] for row in rows))
    guards = [name for name in GUARDS if any(name in cells for cells in found.values())]
    head = ["setting", "method", "distance", "times lower", *(f"seed {seed}" for seed in seeds)]
    head += [*guards, "n", "trained TFLOP"]
    lines = [head, ["---"] * len(head)]
    first: dict[str, float] = {}
    for (setting, method), cells in found.items():
        distance = cells["distance"]
        lower = first.setdefault(setting, distance) / distance if distance else math.nan
        line = [setting, method, f"{distance:.3g}", f"{lower:.2g}"]
        line += [with_half_width(row) for row in cells["each"]]
        line += [f"{cells[name]:.3g}" if name in cells else "" for name in guards]
        line += [str(cells["each"][0]["n"]), f"{cells['training_flops'] / 1e12:.3g}"]
        lines.append(line)
    return markdown(lines)


def write(options: argparse.Namespace, chains: Sequence[Chain], rows: Rows, note: str) -> None:
    r"""Writes `results.md`, whose first lines are the note, and `results.json`, and prints the
    first."""
    command = f"python -m benchmarks.sweep.{options.name} {join(sys.argv[1:])}".rstrip()
    content = {
        "command": command,
        "environment": {"torch": torch.__version__, "threads": torch.get_num_threads()},
        "chains": [asdict(chain) for chain in chains],
        "rows": rows,
    }
    text = f"`{command}`\n\n{note}\n\n{table(rows)}"
    options.out.mkdir(parents=True, exist_ok=True)
    for name, body in (("results.md", text), ("results.json", json.dumps(content, indent=1))):
        with atomic(options.out / name) as file:
            file.write(f"{body}\n".encode())
    print(f"\n{text}\n\nresults {options.out / 'results.json'}")
