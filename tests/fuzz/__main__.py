"""Counts how wrong commands and wrong calls of a seed are answered.

python -m tests.fuzz --seed 7 --count 600 --out fuzz.json
"""

import argparse
import json
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from tests.fuzz.calls import answer, calls
from tests.fuzz.grammar import cases
from tests.fuzz.judge import BAD, run, set_up, tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="the seed of the draw")
    parser.add_argument("--count", type=int, default=600, help="the number of commands")
    parser.add_argument("--out", type=Path, help="where the counts go, as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        template = set_up(Path(folder, "template"))
        rows = run(cases(options.seed, options.count), template, Path(folder, "cases"))
        wrong = calls(options.seed, Path(folder, "files"))
        called = [(label, *answer(call)) for label, call in wrong]
    print(tally(rows))
    print("\n".join(str(row) for row in called if row[1] in BAD))
    counts = {
        "seed": options.seed,
        "command line": {"tried": len(rows), **Counter(kind for _, kind, _ in rows)},
        "Python": {"tried": len(called), **Counter(kind for _, kind, _ in called)},
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(counts))
    if options.out:
        options.out.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
