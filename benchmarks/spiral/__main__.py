r"""The published example of trust sampling: points of a spiral, on a line, a curve, or in a disc.

DPS, DSG, LGD-MC and Trust take a trained prior to four constraints, at equal steps, as published,
and at equal calls of the denoiser; all are tuned with the same effort. Then Trust alone, with its
budget rounded rightly and as in the published code, and with bounds of many kinds. Writes the
numbers, tables and a figure. From the root:

    namm run configs/spiral.yaml --to diffusion
    python -m benchmarks.spiral [--checkpoint CKPT] [--out DIR] [--quick] [--jobs N]
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from constraints import Spiral
from mdm import Denoiser, load_denoiser

from ..common.files import write_json
from ..common.program import launch, options
from .figure import Points, draw
from .measure import QUICK, Plan, benchmark
from .tables import summarise

CHECKPOINT = Path("runs/spiral/diffusion/checkpoints/last.ckpt")


def write(results: dict[str, Any], points: Points, spiral: Spiral, out: Path) -> None:
    r"""Writes the numbers, the tables and the figure."""
    write_json(results, out / "results.json", ("tuned", "rows"))
    (out / "results.md").write_text(summarise(results))
    draw(points, spiral, out / "spiral.png")


def trained(checkpoint: Path, denoiser: Denoiser) -> dict[str, Any]:
    r"""Returns which checkpoint the prior is from, and how it was trained, as far as known."""
    facts = {
        "checkpoint": str(checkpoint),
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "provenance": getattr(denoiser, "provenance", {}),
    }
    finished = checkpoint.parent.parent / "finished.json"
    if finished.is_file():
        known = json.loads(finished.read_text())
        facts |= {key: known[key] for key in ("command", "seconds") if key in known}
    return facts


def main(argv: list[str] | None = None) -> None:
    r"""Runs the benchmark."""
    parser = options(__doc__, "docs/results/spiral")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="of the trained prior")
    parser.add_argument("--quick", action="store_true", help="a smoke run of half a minute")
    parser.add_argument("--jobs", type=int, default=1, help="the number of processes")
    args = parser.parse_args(argv)
    if not args.checkpoint.is_file():
        parser.exit(
            2,
            f"There is no checkpoint {args.checkpoint}: train the prior with `namm run "
            "configs/spiral --to diffusion`, or name another one with --checkpoint.\n",
        )
    denoiser = load_denoiser(str(args.checkpoint))
    shape = denoiser.provenance["constraint"]  # type: ignore[index,union-attr]
    spiral = Spiral(shape["turns"], shape["scale"])
    results, points = benchmark(denoiser, QUICK if args.quick else Plan(), spiral, args.jobs)
    results = {"prior": trained(args.checkpoint, denoiser), **results}
    write(results, points, spiral, args.out)


if __name__ == "__main__":
    launch(main)
