r"""The options of parsers and classes, as jsonargparse reads them from signatures.

This module and `plugins` use private parts of jsonargparse, whose version is bounded above.
"""

__all__ = ["Owner", "class_types", "find", "fits", "options_of", "type_name"]

import inspect
import logging
import sys
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse._required import iter_required_keys
from jsonargparse._typehints import (
    function_returns_subclass,
    get_all_subclass_paths,
    get_class_types,
    type_to_str,
)
from jsonargparse._util import get_import_path, import_object

from .reader import refuse


class Owner(NamedTuple):
    r"""A verb or a class: its name, the types and the defaults of its options, and the names of
    the options that it needs. A flag and a group of options have the type `None`."""

    name: str
    hints: dict[str, Any]
    defaults: dict[str, Any]
    needs: list[str]


def options_of(target: Any, name: str = "") -> Owner:
    r"""Returns a class, a function or a parser as the owner of its options."""
    if isinstance(target, ArgumentParser):
        parser = target
    else:
        parser = ArgumentParser(exit_on_error=False, add_help=False)
        is_class = inspect.isclass(target)
        add = parser.add_class_arguments if is_class else parser.add_function_arguments
        add(target, fail_untyped=False)
        name = get_import_path(target) or str(target)
    actions = [action for action in parser._actions if not action.dest.endswith(".help")]
    hints = {action.dest: getattr(action, "_typehint", None) for action in actions}
    defaults = {action.dest: action.default for action in actions}
    # a required field of a group can have its value in the default of the group
    needs = [key for key in iter_required_keys(parser) if defaults.get(key) is None]
    return Owner(name, hints, defaults, needs)


def class_types(hint: Any) -> tuple[type, ...]:
    r"""Returns the classes in a type whose instances a configuration can describe."""
    return tuple(get_class_types(hint))


def find(classes: tuple[type, ...], path: Any, key: str, at: str) -> Any:
    r"""Returns the class or function with a path or a short name.

    Arguments:
        classes: The classes. The answer is a subclass of one of them, or returns an instance.
        path: The path, or the short name of an imported class.
        key: The key of the value.
        at: The same key as it stands in its file.

    Raises:
        CommandError: If there is no such class.
    """
    if not isinstance(path, str) or not path:
        refuse(key, f"expected the path of a class, got '{path}'", at)
    known = {known for cls in classes for known in get_all_subclass_paths(cls)}
    named = [other for other in known if other.split(".")[-1] == path]
    if len(named) > 1:
        refuse(key, f"{path} is the name of {' and of '.join(sorted(named))}: give a path", at)
    module = path.rpartition(".")[0]
    try:
        target = import_object(named[0] if len(named) == 1 else path)
    except ModuleNotFoundError as error:
        refuse(key, f"there is no module '{error.name}'", at, str(error.name), modules())
    except (AttributeError, ValueError):
        offers = vars(sys.modules[module]) if module in sys.modules else {}
        near = known | {f"{module}.{name}" for name, offer in offers.items() if callable(offer)}
        refuse(key, f"there is no class '{path}'", at, path, near)
    except Exception as error:  # any error that the import of a user's module raises
        refuse(key, f"{path} cannot be imported: {error}", at)
    if not inspect.isfunction(target):
        fitting = inspect.isclass(target) and issubclass(target, classes)
    else:
        fitting = function_returns_subclass(target, classes, logging.getLogger(__name__))
    if not fitting:
        wanted = " or ".join(cls.__name__ for cls in classes)
        listed = f"; known are {', '.join(sorted(known))}" if len(known) < 100 else ""
        refuse(key, f"{path} is not a {wanted}{listed}", at)
    return target


def modules() -> set[str]:
    r"""Returns the names of the modules that are imported, or lie in the working directory."""
    names = {*sys.modules, *(file.stem for file in Path().glob("*.py"))}
    return {name for name in names if "." not in name and not name.startswith("_")}


def fits(hint: Any, value: Any) -> bool:
    r"""Returns whether a value is of a type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def type_name(hint: Any) -> str:
    r"""Returns the name of a type, or the choices that it leaves."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is Annotated:
        kind, *ranges = get_args(hint)
        return f"{type_name(kind)} in {' and in '.join(map(str, ranges))}"
    return "null" if hint is NoneType else type_to_str(hint)
