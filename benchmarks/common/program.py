r"""The start of a benchmark."""

__all__ = ["launch"]

import sys
from collections.abc import Callable
from pathlib import Path

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
