r"""The start of a benchmark, its options, and its processes."""

__all__ = ["launch", "options", "parallel"]

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from constraints import InputError
from namm.cli.main import answered


def launch(main: Callable[[], int | None]) -> None:
    r"""Runs a program in the root of a clone and exits; a sentence says why it could not run.

    Arguments:
        main: The program. It may return an exit code.
    """

    def checked() -> int | None:
        if not Path("configs").is_dir():
            raise InputError(
                f"{Path.cwd()} has no folder configs: run a benchmark from the root of a clone."
            )
        return main()

    sys.exit(answered(checked))


def options(doc: str | None, out: str | None = None) -> argparse.ArgumentParser:
    r"""Returns the parser of a program: the first line of its docstring, and `--out` if there is a
    default for the folder of the results."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if out:
        parser.add_argument("--out", type=Path, default=Path(out), help="the folder of results")
    return parser


def parallel(function: Callable[..., Any], todo: Sequence[Sequence[Any]], jobs: int) -> list[Any]:
    r"""Returns what a function makes of each list of arguments, in some processes."""
    if jobs == 1:
        return [function(*one) for one in todo]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return pool.starmap(function, todo, chunksize=1)
