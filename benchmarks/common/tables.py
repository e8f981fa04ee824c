r"""Tables of Markdown."""

__all__ = ["columns", "join", "mean_sd", "table"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from namm.evaluation.results import markdown


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], words: int | None = None) -> str:
    r"""Returns a table of Markdown. The columns after so many of words are aligned to the
    right."""
    left = len(head) if words is None else words
    return markdown([head, ["---"] * left + ["---:"] * (len(head) - left), *rows])


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Returns a table of rows by name, whose numbers have three digits."""
    cells = [[v if isinstance(v, str) else f"{v:.3g}" for v in row.values()] for row in rows]
    return table(list(rows[0]), cells)


def mean_sd(row: Mapping[str, Any], bold: bool = False) -> str:
    r"""Returns the mean of a row with its standard deviation, in bold on request."""
    text = f"{row['value']:.3g} ± {row['sd']:.1g}"
    return f"**{text}**" if bold else text


def join(*parts: str) -> str:
    r"""Returns the parts of a document, apart by empty lines."""
    return "\n\n".join(parts) + "\n"
