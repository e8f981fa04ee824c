r"""Draws one-line mutations of the packages and runs the tests on each of them.

`python -m benchmarks.mutations --seed 0 --count 30 --out docs/results/mutations/mutations.json`
works on a copy of the tree. A mutation is caught by the first test that fails with the mutation
and passes without it. A person who finds a surviving mutation equivalent says why under
`argument` in the file, and a later run of the same mutation keeps the argument.
"""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..common.files import write_json
from .mutants import Mutant, draw

LEFT_OUT = shutil.ignore_patterns(".*", "runs", "site", "dist", "build", "__pycache__")


def chosen(root: Path, mutant: Mutant) -> list[str]:
    r"""Returns the test files that may catch a mutant: the files of its package, and the files
    that name a class or a function of the mutated file, most names first."""
    tree = ast.parse((root / mutant.file).read_text("utf-8"))
    names = "|".join(x.name for x in tree.body if isinstance(x, ast.ClassDef | ast.FunctionDef))
    package, stem = mutant.file.split("/")[0], Path(mutant.file).stem
    ranks: dict[str, tuple[bool, int]] = {}
    for file in sorted((root / "tests").rglob("test_*.py")):
        text, own = file.read_text("utf-8"), file.parent.name == package
        count = len({*re.findall(rf"\b(?:{names or stem})\b", text)})
        if own or (count and re.search(rf"(from|import) {package}\b", text)):
            ranks[file.relative_to(root).as_posix()] = (not (own and stem in file.stem), -count)
    return sorted(ranks, key=ranks.__getitem__)


def test(root: Path, files: list[str], limit: float) -> str | None:
    r"""Returns the first test that fails, `time limit` after some seconds, or None."""
    options = ["-x", "-q", "-m", "not slow", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    environ = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=root, env=environ, stdout=pipe, text=True) as run:
        try:
            said, _ = run.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            run.kill()
            return "time limit"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
    return failed[1] if failed else None if run.returncode in (0, 5) else "collection"


def catch(root: Path, mutant: Mutant, files: list[str], limit: float) -> str | None:
    r"""Returns the test that catches a mutant, if one does, and leaves the tree as it was."""
    source = (file := root / mutant.file).read_text("utf-8")
    lines = source.split("\n")
    file.write_text("\n".join([*lines[: mutant.line - 1], mutant.after, *lines[mutant.line :]]))
    try:
        caught = test(root, files or chosen(root, mutant), limit)
    finally:
        file.write_text(source)
    if caught in (None, "time limit", "collection"):
        return caught
    if test(root, [caught], limit):
        raise SystemExit(f"{caught} fails without a mutation: repair the tests first.")
    return caught


def main() -> None:
    r"""Runs the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__)
    parser.add_argument("--tree", type=Path, default=Path(), help="the root of the tree")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the draw")
    parser.add_argument("--count", type=int, default=30, help="the number of mutations")
    parser.add_argument("--tests", nargs="*", default=[], help="the tests of all mutations")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one mutation")
    parser.add_argument("--coverage", type=Path, help="lines to change, from `coverage json`")
    parser.add_argument("--out", type=Path, required=True, help="the list of mutations")
    given = parser.parse_args()
    facts = json.loads(given.coverage.read_text())["files"] if given.coverage else None
    executed = facts and {name: file["executed_lines"] for name, file in facts.items()}
    known = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = shutil.copytree(given.tree, Path(folder, "tree"), ignore=LEFT_OUT)
        Path(folder, "shared").symlink_to(given.tree.resolve().parent / "shared")
        for mutant in draw(root, given.seed, given.count, executed):
            start = time.perf_counter()
            row = mutant._asdict() | {"caught": catch(root, mutant, given.tests, given.limit)}
            row["seconds"] = round(time.perf_counter() - start, 1)
            same = [x for x in known if (x["file"], x["after"]) == (mutant.file, mutant.after)]
            rows.append({**next((x for x in same if "argument" in x), {}), **row})
            print(json.dumps(rows[-1]), flush=True)
            write_json({"seed": given.seed, "count": given.count, "rows": rows}, given.out)
    print(f"Tests caught {sum(bool(row['caught']) for row in rows)} of {len(rows)} mutations.")


if __name__ == "__main__":
    main()
