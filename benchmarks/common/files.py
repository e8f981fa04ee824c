r"""Files of results."""

__all__ = ["write_json"]

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


def write_json(results: dict[str, Any], file: Path, listed: Collection[str] = ("rows",)) -> None:
    r"""Writes results as JSON and makes the folder: a line for each key, and for each row of the
    lists among them."""
    lines = []
    for key, value in results.items():
        body = json.dumps(value, separators=(",", ":"))
        if key in listed:
            rows = [json.dumps(row, separators=(",", ":")) for row in value]
            body = "[\n" + ",\n".join(rows) + "\n]"
        lines.append(f"{json.dumps(key)}: {body}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
