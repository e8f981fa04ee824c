"""The import ladder: namm.cli -> inverse -> mdm -> namm -> constraints, and datamodules.

Inside a package imports are relative. Across packages they are absolute, from the package root,
and only go down. Inside `namm` each floor imports lower floors only, and nothing imports
`namm.cli`. No package of ours is loaded by a string, no star is imported, and no modules import
each other in a circle.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.ladder import COLUMNS, PACKAGES, draw, edges, floors, found, read, write

ROOT = Path(__file__).resolve().parents[1]
BELOW = {
    "constraints": set(),
    "datamodules": {"constraints"},
    "namm": {"constraints"},
    "mdm": {"constraints", "namm"},
    "inverse": {"constraints", "namm", "mdm"},
    "namm.cli": {"constraints", "datamodules", "namm", "mdm", "inverse"},
}
FLOORS = ["description", "padding", "nets", "mirror", "losses", "training", "evaluation"]
FLOORS += ["module", "cli", "__main__"]


def violations(source: str, file: str) -> Iterator[str]:
    """Yields a sentence for every import of `file`, a path from the root, that breaks a rule."""

    package, *inner = Path(file).parts
    floor = "namm.cli" if (package, inner[0]) == ("namm", "cli") else package

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            modules, level = [node.module or ""], node.level
        elif isinstance(node, ast.Import):
            modules, level = [alias.name for alias in node.names], 0
        else:
            continue

        where = f"{file}:{node.lineno}: `{ast.unparse(node)}`"

        if any(alias.name == "*" for alias in node.names):
            yield f"{where} is a star import: name what is needed."
        if level > len(inner):
            yield f"{where} leaves the package: import from the root of the other one."

        for module in modules if level == 0 else []:
            root, _, submodule = module.partition(".")

            if root == package:
                yield f"{where} is absolute: imports inside a package are relative."
            elif root in BELOW and root not in BELOW[floor]:
                yield f"{where} goes up or sideways: `{root}` is not below `{floor}`."
            elif root in BELOW and submodule:
                yield f"{where} reaches into `{root}`: import from the package root."


def strays(sources: Mapping[str, str]) -> Iterator[str]:
    """Yields a sentence for every import by a string, and for every import up the floors of
    `namm`."""

    for module in sources:
        for item in found(sources, module):
            where = f"{module}:{item.line}: `{item.text}`"
            if item.by_name:
                yield f"{where} loads {item.imported} by a string: import it."
            importer, imported = (name.split(".")[:2] for name in (module, item.imported))
            if importer[0] != "namm" or imported[0] != "namm" or importer[1] == "__init__":
                continue
            if imported[1:] and FLOORS.index(importer[1]) < FLOORS.index(imported[1]):
                yield f"{where} goes up: `{imported[1]}` is not below `{importer[1]}`."


def circle(sources: Mapping[str, str], package: str) -> list[str]:
    """Returns modules of a package that import each other in a circle, if there are any."""

    names = {name for name in sources if name.split(".")[0] == package}
    waiting = {
        name: {f"{x}.__init__" if f"{x}.__init__" in names else x for x in imported} & names
        for name in names
        for imported in [{item.imported for item in found(sources, name)}]
    }
    while waiting:
        needed = set().union(*waiting.values())
        ends = {name for name in waiting if not waiting[name] & waiting.keys()}
        if not (out := ends | (waiting.keys() - needed)):
            break
        waiting = {name: needs for name, needs in waiting.items() if name not in out}
    return sorted(waiting)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read(ROOT)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_down_the_ladder(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    found = [
        violation
        for file in files
        for violation in violations(file.read_text("utf-8"), file.relative_to(ROOT).as_posix())
    ]

    assert files and not found, "\n".join(found)


def test_no_package_is_loaded_by_a_string_and_floors_import_down(sources: dict[str, str]) -> None:
    found = [*strays(sources)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(sources: dict[str, str], package: str) -> None:
    assert not circle(sources, package)


def test_figure_shows_the_imports_of_the_source(tmp_path: Path) -> None:
    pairs = edges(ROOT)
    stored = ROOT / "docs" / "ladder.json"
    assert pairs == [tuple(pair) for pair in json.loads(stored.read_text())], (
        "The imports have changed: run python -m benchmarks.ladder --out docs/ladder.png."
    )
    write(pairs, tmp_path / "ladder.json")
    draw(pairs, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.json").read_bytes() == stored.read_bytes()
    assert (tmp_path / "ladder.png").stat().st_size > 10_000

    floor = floors(pairs)
    assert max(floor, key=floor.__getitem__) == "namm.cli" and floor["constraints"] == 0
    assert all(floor[upper] > floor[lower] for upper, lower in pairs)
    places = {(COLUMNS.get(name, 2), y) for name, y in floor.items()}
    assert len(places) == len(floor), "Two boxes overlap: give one another column."


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("constraints/burgers.py", "import mdm"),
        ("constraints/burgers.py", "from datamodules import BurgersData"),
        ("datamodules/burgers.py", "from namm import NAMM"),
        ("namm/cli.py", "def main():\n    from inverse import Inverse"),
        ("namm/training/stage.py", "from mdm import MDM"),
        ("mdm/module.py", "import torch, inverse"),
        ("mdm/module.py", "from namm.module import NAMM"),
        ("mdm/module.py", "import constraints.burgers"),
        ("mdm/module.py", "from namm.cli.main import main"),
        ("namm/cli/check.py", "from datamodules.schema import check_fits"),
        ("namm/cli/check.py", "from namm.training import io"),
        ("mdm/module.py", "from mdm.schedule import Schedule"),
        ("mdm/module.py", "from ..namm import NAMM"),
        ("mdm/__init__.py", "from .module import *"),
        ("inverse/dps.py", "from math import *"),
    ],
)
def test_planted_violation_is_caught(file: str, source: str) -> None:
    assert len(list(violations(source, file))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mdm.module", "import importlib\nimportlib.import_module('inverse')"),
        ("mdm.module", "def f():\n    return __import__('datamodules.schema')"),
        ("mdm.module", "load('datamodules.check_fits')(path)"),
        ("mdm.module", "NAMES = ('inverse',)\nfor name in NAMES:\n    import_module(name)"),
        ("namm.nets", "from .losses import mirror_losses"),
        ("namm.nets", "from . import losses"),
        ("namm.nets", "from . import mirror_losses"),
        ("namm.training.stage", "def f():\n    from ..evaluation.base import Evaluation"),
        ("namm.module", "from .cli.main import main"),
    ],
)
def test_planted_stray_is_caught(module: str, source: str) -> None:
    tree = {
        "namm.__init__": "from .losses import mirror_losses",
        "namm.losses": "",
        module: source,
    }
    assert len([*strays(tree | {"inverse.__init__": "", "namm.evaluation.base": ""})]) == 1


def test_planted_circle_is_caught() -> None:
    tree = {"mdm.__init__": "from .a import A", "mdm.a": "from .b import B", "mdm.b": ""}
    assert not circle(tree, "mdm")
    for source in ("def f():\n    from .a import A", "from . import A", "from . import a"):
        assert circle(tree | {"mdm.b": source}, "mdm") == ["mdm.a", "mdm.b"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("constraints/burgers.py", "import torch.nn as nn\nfrom .base import Constraint"),
        ("namm/module.py", "from constraints import Constraint\nfrom . import losses"),
        ("namm/cli/check.py", "from datamodules import check_fits\nfrom ..training import io"),
        ("inverse/module.py", "from mdm import Sampler\nfrom namm import load_part"),
    ],
)
def test_imports_down_the_ladder_pass(file: str, source: str) -> None:
    assert not list(violations(source, file))
    module = file.removesuffix(".py").replace("/", ".")
    assert not list(strays({module: source, "namm.losses": ""}))
