"""The names that `namm` offers: the table of their modules and the imports of type checkers."""

import ast
import inspect
from importlib import import_module

import pytest

import namm


def test_table_and_imports_of_type_checkers_agree() -> None:
    (block,) = (x for x in ast.parse(inspect.getsource(namm)).body if isinstance(x, ast.If))
    imported = {
        alias.asname: (statement.module, alias.name)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert imported == {name: (module, name) for name, module in namm._HOMES.items()}
    assert namm.__all__ == list(namm._HOMES)


@pytest.mark.parametrize("name", namm._HOMES)
def test_each_name_is_listed_by_its_module(name: str) -> None:
    module = import_module(f"namm.{namm._HOMES[name]}")
    assert name in module.__all__ and getattr(namm, name) is getattr(module, name)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = namm.Nothing
