r"""Recipes of parts, built without running code that a file brings along.

Files of weights, checkpoints and files of results name the classes of their parts. Every part of a
file is built here: of the kind that is asked for, from classes of the modules that
`namm.training.trust` allows, and by the loaders of this project. Nothing else is imported or
called.
"""

__all__ = ["build", "build_part", "check_classes", "check_parts", "in_words", "modules_of"]

import inspect
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse._util import import_object
from torch import nn

from .trust import LOADERS, from_files, is_trusted, refuse


def build(recipe: Any, kind: type = nn.Module) -> Any:
    r"""Builds a part from the recipe of a file.

    Arguments:
        recipe: The class path and the arguments.
        kind: The class that the part must be of.

    Raises:
        InputError: If the recipe names a class that is not allowed, or if it does not fit.
    """
    with in_words(kind):
        return build_part(recipe, kind)


def build_part(recipe: Any, kind: type = nn.Module) -> Any:
    r"""Builds a part from a recipe, as `build` does, with the errors of the parser.

    Arguments:
        recipe: The class path and the arguments.
        kind: The class that the part must be of.
    """
    with from_files():
        parser, config = _parsed(recipe, kind)
        return parser.instantiate(config).part


@contextmanager
def in_words(kind: type) -> Iterator[None]:
    r"""Raises the errors of recipes in the context as an `InputError`.

    Arguments:
        kind: The class that is built.
    """
    try:
        yield
    except (ArgumentError, RecursionError, SystemExit) as error:
        known = isinstance(error, ArgumentError)
        reason = str(error).strip().splitlines()[-1].strip(" -") if known else repr(error)
        refuse(f"This is no recipe of a {kind.__name__}: {reason}.", error)


def check_parts(recipes: dict[str, Any]) -> None:
    r"""Checks the recipes in the hyper-parameters of a file, inside of `from_files`.

    Arguments:
        recipes: The hyper-parameters.
    """
    for recipe in recipes.values():
        for path in [*_class_paths(recipe)][:1]:
            check_classes(recipe)
            if inspect.isclass(kind := _target(path)):
                _parsed(recipe, kind)


def check_classes(config: Any) -> None:
    r"""Checks that each class path in a configuration names a class, or a loader of this project.

    Raises:
        InputError: If a class path names a function.
    """
    for path in _class_paths(config):
        target = _target(path)
        if not inspect.isclass(target) and target not in LOADERS:
            refuse(f"{path} is no class, and only a class is built: give a class.")


def modules_of(config: Any) -> set[str]:
    r"""Returns the modules of the classes and functions that a configuration of the user names,
    for `namm.training.trust.trusting`.

    Arguments:
        config: The configuration, parsed.
    """
    paths = [*_class_paths(config)]
    found = [*map(_target, paths), *filter(inspect.isroutine, _values(config))]
    homes = (getattr(target, "__module__", None) for target in found)
    return {path.rpartition(".")[0] for path in paths} | {*filter(None, homes)}


def _parsed(recipe: Any, kind: type) -> tuple[ArgumentParser, Namespace]:
    r"""Returns a parser and the recipe of a part as it read the recipe, whose classes and values
    are allowed."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("part", type=kind)
    # without the defaults of the classes, which are not of the file
    config = parser.parse_object({"part": recipe}, defaults=False)
    check_classes(config)
    _check_values(config)
    return parser, config


def _check_values(config: Any) -> None:
    r"""Checks that the arguments in a recipe hold no function and no object but of the modules
    that the user trusts."""
    for value in filter(callable, _values(config)):
        module = str(getattr(value, "__module__", type(value).__module__))
        if not inspect.isclass(value) and not is_trusted(module):
            name = getattr(value, "__qualname__", type(value).__name__)
            refuse(f"The file names {module}.{name}, and no function of a file is used.")


def _target(path: str) -> Any:
    r"""Returns the object with a class path, or nothing if there is none."""
    try:
        return import_object(path)
    except (AttributeError, ModuleNotFoundError):
        return None


def _class_paths(config: Any) -> Iterator[str]:
    r"""Yields the class paths in a configuration, at any depth."""
    for key, value in _entries(config):
        if key == "class_path" and isinstance(value, str):
            yield value
        yield from _class_paths(value)


def _values(config: Any) -> Iterator[Any]:
    r"""Yields the values in a configuration, at any depth."""
    for _, value in _entries(config):
        yield value
        yield from _values(value)


def _entries(config: Any) -> list[tuple[Any, Any]]:
    content = vars(config) if isinstance(config, Namespace) else config
    if isinstance(content, dict):
        return [*content.items()]
    return [*enumerate(content)] if isinstance(content, (list, tuple)) else []
