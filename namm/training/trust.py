r"""The modules whose classes a file may name, and the gate that lets no other module in.

A file may name classes of this project, of diffusers and of `torch.nn`, and classes of modules
that the user trusts. A user trusts a module by naming a class of the module in a configuration, by
`--trust` on the command line, by the argument `trust` of the loaders in Python, or by installing
a plug-in.
"""

__all__ = [
    "GROUP",
    "LOADERS",
    "from_files",
    "in_python_alone",
    "installed",
    "is_trusted",
    "refuse",
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
from typing import Any, NoReturn, TypeVar

from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings

from constraints import InputError, load_counter

OWN = ("constraints", "datamodules", "diffusers", "inverse", "mdm", "namm", "torch.nn")
GROUP = "namm.constraints"  # the entry points of plug-ins
LOADERS: set[Callable[..., Any]] = {load_counter}  # the functions that a configuration may name
DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
POLICY = ("import_path_verdicts", "import_paths_enforced")

Loader = TypeVar("Loader", bound=Callable[..., Any])
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())

# no configuration comes from the network, nor names a function that could run a program
set_parsing_settings(config_read_mode_urls_enabled=False, import_path_denylist=[])


@contextmanager
def trusting(modules: Iterable[str] = ()) -> Iterator[None]:
    r"""Lets files name classes of further modules while the context lasts.

    Arguments:
        modules: The names of the modules, or of packages with all of their modules.

    Raises:
        InputError: If a name is no name of a module.
    """
    names = [modules] if isinstance(modules, str) else [*modules]
    for name in names:
        if not _is_module(name):
            refuse(f"'{name}' cannot be trusted: give the name of a module of your own.")
    token = _trusted.set(_trusted.get() | {*names})
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted(module: str) -> bool:
    r"""Returns whether a module is one that the user trusts."""
    return any(f"{module}.".startswith(f"{name}.") for name in _trusted.get())


@contextmanager
def from_files() -> Iterator[None]:
    r"""Lets the parser import from the allowed modules alone while the context lasts.

    Raises:
        InputError: If a file names a class of another module.
    """
    before = {name: parsing_settings[name] for name in POLICY}
    plugins = (point.module for point in installed(entry_points(group=GROUP)))
    allowed = [*OWN, *filter(_is_module, plugins), *_trusted.get()]
    try:
        set_parsing_settings(import_path_denylist=["*", "namm.cli"], import_path_allowlist=allowed)
        yield
    except (ArgumentError, ImportError, ValueError) as error:
        origin: BaseException = error  # the parser wraps all errors
        while origin.__cause__ is not None and not isinstance(origin, InputError):
            origin = origin.__cause__
        if not isinstance(origin, InputError) and (denied := DENIED.search(str(error))):
            module = denied[1].rpartition(".")[0] or denied[1]
            refuse(
                f"The file names {denied[1]}, whose code is not of this project: if you trust it, "
                f"give --trust {module}, or trust=['{module}'] in Python.",
                error,
            )
        kept = origin if isinstance(origin, InputError) else error
        raise kept from kept.__cause__
    finally:
        parsing_settings.update(before)


def refuse(message: str, error: BaseException | None = None) -> NoReturn:
    r"""Raises an `InputError`.

    Arguments:
        message: The message.
        error: The error behind it, if there is one.
    """
    raise InputError(message) from error


def in_python_alone(loader: Loader) -> Loader:
    r"""Lets configurations and files name a loader, and hides the argument `trust` of the loader
    from them: a file cannot ask to be trusted."""
    signature = inspect.signature(loader)
    shown = [p for name, p in signature.parameters.items() if name != "trust"]
    loader.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    LOADERS.add(loader)
    return loader


def installed(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    r"""Returns those entry points whose packages are installed. A package that merely lies in the
    working directory is not."""
    here = Path.cwd()
    return [
        point
        for point in points
        if point.dist is None or Path(str(point.dist.locate_file(""))).resolve() != here
    ]


def _is_module(name: str) -> bool:
    r"""Returns whether a name is the name of a module that can be trusted: not of the parser,
    whose settings keep the allow list."""
    parts = name.split(".")
    return parts[0] != "jsonargparse" and all(map(str.isidentifier, parts))
