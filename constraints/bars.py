r"""Progress in the units of the work, with an estimate of the time that is left.

Nothing is shown unless a program asks for it, as the command line does.
"""

__all__ = ["progress", "show_progress"]

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from tqdm import tqdm

_shown = False


class Bar(tqdm):
    r"""Creates a bar on a terminal."""

    monitor_interval = 0  # no thread, since every step is looked at

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"leave": False, "miniters": 1, "dynamic_ncols": True, **options})


class Lines(Bar):
    r"""Creates progress for an output that is no terminal: a line a minute, which all progress
    under way shares."""

    seconds = 60.0
    printed = 0.0
    under_way: ClassVar[list["Lines"]] = []  # the outermost first

    def __init__(self, **options: Any) -> None:
        line = "{desc}: {n_fmt} of {total_fmt}{unit}, {elapsed} so far, {remaining} left{postfix}"
        own = {"bar_format": line, "mininterval": 0, "dynamic_ncols": False}
        super().__init__(**options, **own, file=io.StringIO())  # codes for a terminal go nowhere
        if not self.disable:
            self.under_way.append(self)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        now = time.monotonic()
        if msg is None and self.n and now - Lines.printed >= self.seconds:
            Lines.printed = now
            print(*self.under_way, sep="; ", file=sys.stderr, flush=True)
        return True

    def close(self) -> None:
        self.under_way[:] = [bar for bar in self.under_way if bar is not self]
        super().close()


@contextmanager
def show_progress(shown: bool = True) -> Iterator[None]:
    r"""Shows the progress of simulations, samplers and solvers while the context lasts: as bars on
    a terminal, and elsewhere as a line a minute.

    Arguments:
        shown: Whether progress is shown.
    """
    global _shown
    before, _shown = _shown, shown
    if shown and not before:
        Lines.printed = time.monotonic()
    try:
        yield
    finally:
        _shown = before


def progress(total: int, title: str, unit: str) -> tqdm:
    r"""Returns a context whose `update(n)` counts n units of work as done.

    Arguments:
        total: The number of units.
        title: The name of the work.
        unit: The name of the units, such as `steps`.
    """
    kind = Bar if sys.stderr.isatty() else Lines
    return kind(total=total, desc=title, unit=f" {unit}", disable=not _shown)
