"""The import ladder: inverse -> mdm -> namm -> constraints, and datamodules -> constraints.

Inside a package imports are relative. Across packages they are absolute, from the package root,
and only go down. Star imports are banned.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


BELOW = {
    "constraints": set(),
    "datamodules": {"constraints"},
    "namm": {"constraints"},
    "mdm": {"constraints", "namm"},
    "inverse": {"constraints", "namm", "mdm"},
}


def violations(source: str, file: str) -> Iterator[str]:
    """Yields a sentence for every import of `file`, a path from the root, that breaks a rule."""

    package, *inner = Path(file).parts

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
            elif root in BELOW and root not in BELOW[package]:
                yield f"{where} goes up or sideways: `{root}` is not below `{package}`."
            elif root in BELOW and submodule:
                yield f"{where} reaches into `{root}`: import from the package root."


@pytest.mark.parametrize("package", BELOW)
def test_imports_go_down_the_ladder(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))

    if not files:
        pytest.skip(f"The package `{package}` does not exist yet.")

    found = [
        violation
        for file in files
        for violation in violations(file.read_text("utf-8"), file.relative_to(ROOT).as_posix())
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("constraints/burgers.py", "import mdm"),
        ("constraints/burgers.py", "from datamodules import BurgersData"),
        ("datamodules/burgers.py", "from namm import NAMM"),
        ("namm/cli.py", "def main():\n    from inverse import Inverse"),
        ("mdm/module.py", "import torch, inverse"),
        ("mdm/module.py", "from namm.module import NAMM"),
        ("mdm/module.py", "import constraints.burgers"),
        ("mdm/module.py", "from mdm.schedule import Schedule"),
        ("mdm/module.py", "from ..namm import NAMM"),
        ("mdm/__init__.py", "from .module import *"),
        ("inverse/dps.py", "from math import *"),
    ],
)
def test_planted_violation_is_caught(file: str, source: str) -> None:
    assert len(list(violations(source, file))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("constraints/burgers.py", "import torch.nn as nn\nfrom .base import Constraint"),
        ("namm/module.py", "from constraints import Constraint\nfrom . import losses"),
        ("inverse/module.py", "from mdm import Sampler\nfrom namm import load_part"),
    ],
)
def test_imports_down_the_ladder_pass(file: str, source: str) -> None:
    assert not list(violations(source, file))
