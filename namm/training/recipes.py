r"""Recipes from files, built without running code that a file brings along.

A file of weights, a checkpoint and a file of results name the classes of their parts. The parts
are built from classes of this project, of diffusers and of `torch.nn`, from classes of modules
that the user trusts, and by the loaders of this project. Nothing else is imported or called. A
user trusts a module by naming a class of the module in a configuration, by `--trust` on the
command line, by the argument `trust` of the loaders in Python, or by installing a plug-in.
"""

__all__ = [
    "GROUP",
    "build",
    "check_classes",
    "check_refused",
    "from_files",
    "in_python_alone",
    "modules_of",
    "plugins",
    "trusting",
]

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings
from jsonargparse._util import import_object
from torch import nn

from constraints import InputError

OWN = ("constraints", "datamodules", "diffusers", "inverse", "mdm", "namm", "torch.nn")
LOADERS = {"load_counter": "constraints.count", "load_denoiser": "mdm.denoiser"}
LOADERS |= {"load_mirror": "namm.training.checkpoint"}
GROUP = "namm.constraints"  # the entry points of plug-ins
DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
POLICY = ("import_path_verdicts", "import_paths_enforced")

Loader = TypeVar("Loader", bound=Callable[..., Any])
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())

# no configuration comes from the network, nor names a function that could run a program
set_parsing_settings(config_read_mode_urls_enabled=False, import_path_denylist=[])


@contextmanager
def trusting(modules: Iterable[str] = ()) -> Iterator[None]:
    r"""Lets classes of further modules into the recipes of files while the context lasts.

    Arguments:
        modules: The names of the modules, or of packages with all of their modules.

    Raises:
        InputError: If a name is no name of a module.
    """
    names = [modules] if isinstance(modules, str) else [*modules]
    for name in names:
        if not _is_module(name):
            raise InputError(f"'{name}' cannot be trusted: give the name of a module of your own.")
    token = _trusted.set(_trusted.get() | {*names})
    try:
        yield
    finally:
        _trusted.reset(token)


def plugins() -> list[EntryPoint]:
    r"""Returns the constraints that installed packages offer. A package that merely lies in the
    working directory is not installed."""
    here = Path.cwd()
    return [
        point
        for point in entry_points(group=GROUP)
        if point.dist is None or Path(str(point.dist.locate_file(""))).resolve() != here
    ]


@contextmanager
def from_files() -> Iterator[None]:
    r"""Lets the parser import from the modules of the allow list alone, while the context
    lasts."""
    before = {name: parsing_settings[name] for name in POLICY}
    allowed = [*OWN, *filter(_is_module, (point.module for point in plugins())), *_trusted.get()]
    try:
        set_parsing_settings(import_path_denylist=["*", "namm.cli"], import_path_allowlist=allowed)
        yield
    finally:
        parsing_settings.update(before)


def build(recipe: Any, kind: type = nn.Module) -> Any:
    r"""Builds a part from the recipe of a file.

    Arguments:
        recipe: The class path and the arguments.
        kind: The class that the part must be of.

    Raises:
        InputError: If the recipe names a class that is not allowed, or if it does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("part", type=kind)
    with from_files():
        try:
            # defaults are of the classes, not of the file
            config = parser.parse_object({"part": recipe}, defaults=False)
            check_classes(config)
            _check_values(config)
            return parser.instantiate(config).part
        except (ArgumentError, ImportError, ValueError) as error:
            check_refused(error)
            if isinstance(error, ValueError):
                raise
            reason = str(error).strip().splitlines()[-1].strip(" -")
            raise InputError(f"This is no recipe of a {kind.__name__}: {reason}.") from error
        except (RecursionError, SystemExit) as error:
            name = type(error).__name__
            raise InputError(f"The recipe of a {kind.__name__} ends in {name}.") from error


def check_refused(error: Exception) -> None:
    r"""Raises the `InputError` that an error of the parser wraps, or the refusal of a class, if
    the parser says that the class is not allowed."""
    origin: BaseException | None = error
    while origin is not None and not isinstance(origin, InputError):
        origin = origin.__cause__
    if origin is not None:
        raise origin from None
    if denied := DENIED.search(str(error)):
        path = denied[1]
        module = path.rpartition(".")[0] or path
        raise InputError(
            f"The file names {path}, whose code is not of this project: if you trust it, give "
            f"--trust {module}, or trust=['{module}'] in Python."
        ) from error


def check_classes(config: Any) -> None:
    r"""Checks that each class path in a configuration names a class, or a loader of this project.

    Raises:
        InputError: If a class path names a function.
    """
    for path in _class_paths(config):
        target = import_object(path)
        known = LOADERS.get(getattr(target, "__name__", ""))
        if not inspect.isclass(target) and known != getattr(target, "__module__", ""):
            raise InputError(f"{path} is no class, and only a class is built: give a class.")


def modules_of(config: Any) -> set[str]:
    r"""Returns the modules of the classes and functions that a configuration of the user names,
    for `trusting`.

    Arguments:
        config: The configuration, parsed.
    """
    targets = [import_object(path) for path in _class_paths(config)]
    paths = {path.rpartition(".")[0] for path in _class_paths(config)}
    found = [*targets, *filter(callable, _values(config))]
    return paths | {name for target in found if (name := getattr(target, "__module__", None))}


def in_python_alone(loader: Loader) -> Loader:
    r"""Hides the argument `trust` of a loader from configurations and recipes: a file cannot ask
    to be trusted."""
    signature = inspect.signature(loader)
    shown = [p for name, p in signature.parameters.items() if name != "trust"]
    loader.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return loader


def _is_module(name: str) -> bool:
    r"""Returns whether a name is the name of a module that can be trusted: not of the parser,
    whose settings keep the allow list."""
    parts = name.split(".")
    return parts[0] != "jsonargparse" and all(map(str.isidentifier, parts))


def _check_values(config: Any) -> None:
    r"""Checks that the arguments in a recipe hold no function and no object but of the modules
    that the user trusts."""
    for value in filter(callable, _values(config)):
        module = str(getattr(value, "__module__", type(value).__module__))
        trusted = any(f"{module}.".startswith(f"{name}.") for name in _trusted.get())
        if not inspect.isclass(value) and not trusted:
            name = getattr(value, "__qualname__", type(value).__name__)
            raise InputError(f"The file names {module}.{name}, and no function of a file is used.")


def _class_paths(config: Any) -> Iterator[str]:
    r"""Yields the class paths in a configuration, at any depth."""
    content = vars(config) if isinstance(config, Namespace) else config
    if isinstance(content, dict):
        if isinstance(path := content.get("class_path"), str):
            yield path
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        for part in content:
            yield from _class_paths(part)


def _values(config: Any) -> Iterator[Any]:
    r"""Yields the values in a configuration, at any depth."""
    content = vars(config) if isinstance(config, Namespace) else config
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        for part in content:
            yield from _values(part)
    else:
        yield content
