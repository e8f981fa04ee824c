r"""Rows of results as cells and tables of Markdown."""

__all__ = ["half", "markdown", "with_half"]

from collections.abc import Iterable
from typing import Any


def half(row: dict[str, Any]) -> float:
    r"""Returns the half-width of the 95 % interval of a row of the results."""
    return float(row["ci95"][1] - row["ci95"][0]) / 2


def with_half(row: dict[str, Any]) -> str:
    r"""Returns the value of a row of the results with the half-width of its 95 % interval."""
    return f"{row['value']:.3g} ± {half(row):.1g}"


def markdown(lines: Iterable[Iterable[Any]]) -> str:
    r"""Returns the lines of a table, each of as many cells, as Markdown.

    Arguments:
        lines: The lines, the second of which is of `---`.
    """
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
