r"""The ladder of imports: finds the imports of the packages, and draws them.

`python -m benchmarks.ladder --out docs/ladder.png` writes the figure, and the imports between
rooms beside it as `ladder.json`. A room is a package or a part of one; a box stands one floor
above the highest room that it imports.
"""

__all__ = [
    "COLUMNS",
    "PACKAGES",
    "Import",
    "draw",
    "edges",
    "floors",
    "found",
    "read",
    "room",
    "write",
]

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("constraints", "datamodules", "namm", "mdm", "inverse")
LOADERS = {"__import__", "find_spec", "import_module", "import_object", "load", "resolve_name"}
NAMED = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)*")
# the columns of the figure; the first room and the last one span all columns
COLUMNS = {"datamodules": 0, "namm.padding": 1, "namm.nets": 1, "mdm": 4, "inverse": 4}
COLUMNS |= {"namm.training": 3, "namm.evaluation": 3}
COLOURS = {
    "constraints": "#f6e3c5",
    "datamodules": "#e4ecd4",
    "mdm": "#ead9ec",
    "inverse": "#f4d6d2",
}


class Import(NamedTuple):
    r"""An import.

    Arguments:
        importer: The module that imports.
        imported: The module that is imported.
        line: The number of the line.
        text: The statement, or the call that loads a module by its name.
        by_name: Whether the module is loaded by a string.
    """

    importer: str
    imported: str
    line: int
    text: str
    by_name: bool = False


def read(root: Path) -> dict[str, str]:
    r"""Returns the source of each module of the packages, by the dotted name of the module.

    Arguments:
        root: The folder that holds the packages. The name of a package's own file ends in
            `.__init__`.
    """
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts): file.read_text() for file in files
    }


def found(sources: Mapping[str, str], module: str) -> Iterator[Import]:
    r"""Yields the imports of our packages in a module, inside functions and by string too.

    Arguments:
        sources: The source of each module by its dotted name, as `read` returns them.
        module: The name of the module that imports.
    """
    tree = ast.parse(sources[module])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [resolve(sources, base, alias.name) for alias in node.names]
        else:
            targets = [*strings(node, tree, sources)]
        for target in targets:
            if target.split(".")[0] in PACKAGES:
                yield Import(
                    module, target, node.lineno, ast.unparse(node), isinstance(node, ast.Call)
                )


def strings(node: ast.AST, tree: ast.Module, sources: Mapping[str, str]) -> Iterator[str]:
    r"""Yields the names of our modules that a call loads: the strings of the call, and all modules
    that the file names where the call loads by a variable."""
    if not isinstance(node, ast.Call) or not node.args:
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in LOADERS:
        return
    variable = isinstance(node.args[0], ast.Name)
    for part in ast.walk(tree if variable else node.args[0]):
        name = str(part.value) if isinstance(part, ast.Constant) else ""
        known = {name, f"{name}.__init__"} & sources.keys()
        if NAMED.fullmatch(name) and (known or not variable):
            yield name


def resolve(sources: Mapping[str, str], base: str, name: str) -> str:
    r"""Returns the module that defines a name which is imported from a module or a package."""
    if f"{base}.{name}" in sources or f"{base}.{name}.__init__" in sources:
        return f"{base}.{name}"
    own = f"{base}.__init__"
    for node in ast.walk(ast.parse(sources.get(own, ""))):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            above = own.split(".")[: -node.level]
            return resolve(sources, ".".join([*above, node.module or ""]), name)
    return base


def room(module: str) -> str:
    r"""Returns the room of a module: its package, or the part of `namm` in which it lies."""
    package, *inner = module.removesuffix(".__init__").split(".")
    return f"namm.{inner[0]}" if package == "namm" and inner else package


def edges(root: Path) -> list[tuple[str, str]]:
    r"""Returns the pairs of rooms of which the first imports the second, sorted.

    Arguments:
        root: The folder that holds the packages. The packages' own files, which list what the
            packages offer, and `namm/__main__.py` are left out.
    """
    sources = read(root)
    inner = [name for name in sources if not name.endswith(("__init__", "__main__"))]
    imports = [item for name in inner for item in found(sources, name)]
    pairs = {(room(item.importer), room(item.imported)) for item in imports}
    return sorted((a, b) for a, b in pairs if not f"{a}.".startswith(f"{b}."))


def floors(pairs: list[tuple[str, str]]) -> dict[str, int]:
    r"""Returns the floor of each room, counted from 0: one above the highest that it imports."""
    below: dict[str, set[str]] = {}
    for upper, lower in pairs:
        below.setdefault(upper, set()).add(lower)
        below.setdefault(lower, set())
    floor: dict[str, int] = {}
    while len(floor) < len(below):
        ready = [name for name in below if name not in floor and below[name] <= floor.keys()]
        if not ready:
            raise ValueError(
                f"The rooms {sorted(below.keys() - floor.keys())} import in a circle."
            )
        floor |= {name: max((floor[x] + 1 for x in below[name]), default=0) for name in ready}
    return floor


def draw(pairs: list[tuple[str, str]], file: Path) -> None:
    r"""Draws the rooms as boxes on their floors, and the imports as arrows.

    An arrow is dark where no longer way leads from the importing room to the imported one.

    Arguments:
        pairs: The rooms, importing and imported, as `edges` returns them.
        file: The file of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    floor = floors(pairs)
    ends = {min(floor, key=floor.__getitem__), max(floor, key=floor.__getitem__)}
    columns = {name: COLUMNS.get(name, 2) for name in floor}
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.45, 4.8), ylim=(-0.3, max(floor.values()) + 0.3))
    axes.set_axis_off()
    for name, y in floor.items():
        left, width = (-0.43, 4.86) if name in ends else (columns[name] - 0.43, 0.86)
        style = "round,pad=0,rounding_size=0.08"
        box = FancyBboxPatch((left, y - 0.2), width, 0.4, boxstyle=style)
        box.set(facecolor=COLOURS.get(name, "#d5e3f0"), edgecolor="#444444", zorder=3)
        axes.add_patch(box)
        axes.text(left + width / 2, y, name, ha="center", va="center", fontsize=10, zorder=4)
    for upper, lower in pairs:
        longer = any((upper, x) in pairs and reaches(pairs, x, lower) for x in floor if x != lower)
        a = columns[lower] if upper in ends else columns[upper]
        b = a if lower in ends else columns[lower]
        shift = 0.12 * (b > a) - 0.12 * (b < a)
        between = range(floor[lower] + 1, floor[upper])
        steep = a == b and any(columns[x] == a and floor[x] in between for x in floor)
        arrow = FancyArrowPatch(
            (a + shift + 0.35 * steep, floor[upper] - 0.2),
            (b - shift + 0.35 * steep, floor[lower] + 0.2),
            arrowstyle="-|>",
            mutation_scale=10,
            connectionstyle=f"arc3,rad={-0.2 if steep else 0}",
            color="#b8b8b8" if longer else "#333333",
            linewidth=0.8 if longer else 1.3,
            zorder=1 if longer else 2,
        )
        axes.add_patch(arrow)
    figure.savefig(file, dpi=110)


def reaches(pairs: list[tuple[str, str]], upper: str, lower: str) -> bool:
    r"""Returns whether a way of imports leads from a room to another one."""
    return (upper, lower) in pairs or any(
        a == upper and reaches(pairs, b, lower) for a, b in pairs
    )


def write(pairs: list[tuple[str, str]], file: Path) -> None:
    r"""Writes the pairs of rooms as JSON, a line for each."""
    lines = ",\n".join(json.dumps(pair) for pair in pairs)
    file.write_text(f"[\n{lines}\n]\n")


def main() -> None:
    r"""Draws the imports of the packages in the working directory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the figure")
    out = parser.parse_args().out
    pairs = edges(Path())
    draw(pairs, out)
    write(pairs, out.with_suffix(".json"))


if __name__ == "__main__":
    main()
