r"""The rows of results: as JSON in a file, as cells and as tables of Markdown."""

__all__ = [
    "FILES",
    "code_span",
    "escaped",
    "half_width",
    "interval",
    "markdown",
    "one_line",
    "png",
    "with_half_width",
    "write",
]

import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from constraints import Given

from ..training.io import write_together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("results.json", "fields.png", "fields.pt", "given.pt")  # of a test stage


def interval(computed: Mapping[str, Tensor]) -> dict[str, Any]:
    r"""Returns the value of a metric and its 95 % interval, as a row holds them.

    Arguments:
        computed: The value as `mean`, and the half-width of the interval as `ci95`; the numbers of
            data and of samples as `used`, where the metric leaves some of them out. A value that
            is not finite becomes None, with a `reason`.
    """
    value, width = float(computed["mean"]), float(computed["ci95"])
    used = {"used": computed["used"].tolist()} if "used" in computed else {}
    if not math.isfinite(value + width):
        reason = f"the mean is {value} ± {width}: a field is not finite, or fields do not differ"
        return {"value": None, "ci95": None, "reason": reason, **used}
    return {"value": value, "ci95": [value - width, value + width], **used}


def write(
    folder: Path,
    rows: list[dict[str, Any]],
    config: Any,
    notes: list[str],
    device: torch.device,
    figure: "Figure",
    fields: Mapping[str, Tensor],
    given: Given | None = None,
) -> None:
    r"""Writes the rows into `results.json`, a figure into `fields.png`, a few fields into
    `fields.pt`, and the data of the first fields, where there are data, into `given.pt`.

    Arguments:
        folder: The folder of the test stage.
        rows: The rows of the results.
        config: The configuration of the test stage.
        notes: The sentences that a reader must know.
        device: The device on which the samples were made.
        figure: The figure of the fields.
        fields: The fields by title, each with shape `(B, C, *S)`.
        given: The data of the first fields, for the constraint.
    """
    results = {
        "rows": rows,
        "notes": notes,
        "config": config,
        "environment": {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": str(device),
            "machine": platform.machine(),
        },
    }
    # a few fields, or as many points as make a cloud
    kept = {k: v[: max(4, 2048 // v[0].numel())].cpu().clone() for k, v in fields.items()}
    data = {name: value[:4].cpu().clone() for name, value in (given or {}).items()}
    contents = {
        "results.json": json.dumps(results, indent=1).encode(),  # replaced last
        "fields.png": png(figure, 160),
        "fields.pt": saved(kept),
        **({"given.pt": saved(data)} if data else {}),
    }
    write_together(folder, contents)
    if not data:
        (folder / "given.pt").unlink(missing_ok=True)


def png(figure: "Figure", dpi: int) -> bytes:
    r"""Returns a figure as the content of a PNG file.

    Arguments:
        figure: The figure.
        dpi: The pixels of an inch.
    """
    figure.savefig(content := BytesIO(), format="png", dpi=dpi)
    return content.getvalue()


def saved(content: Any) -> bytes:
    r"""Returns an object as the content of a file that `torch.load` reads."""
    torch.save(content, out := BytesIO())
    return out.getvalue()


def half_width(row: dict[str, Any]) -> float:
    r"""Returns the half-width of the 95 % interval of a row of the results."""
    return float(row["ci95"][1] - row["ci95"][0]) / 2


def with_half_width(row: dict[str, Any]) -> str:
    r"""Returns the value of a row of the results with the half-width of its 95 % interval."""
    return "none" if row["value"] is None else f"{row['value']:.3g} ± {half_width(row):.1g}"


def escaped(name: object) -> str:
    r"""Returns a name of a file as text in Markdown, on one line, that no reader takes for a
    cell, a link or HTML.

    Arguments:
        name: The name.
    """
    text = re.sub(r"[\\`*\[\]|!]", r"\\\g<0>", one_line(name))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code_span(text: object) -> str:
    r"""Returns text of a file as code in Markdown, on one line."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def one_line(text: object) -> str:
    r"""Returns text of a file on one line, without the characters that steer a terminal."""
    return "".join(letter for letter in " ".join(str(text).split()) if letter.isprintable())


def markdown(lines: Iterable[Iterable[Any]]) -> str:
    r"""Returns the lines of a table, each of as many cells, as Markdown.

    Arguments:
        lines: The lines, the second of which is of `---`.
    """
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
