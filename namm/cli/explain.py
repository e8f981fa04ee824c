r"""Finds the mistake in a command that jsonargparse refuses.

The configurations of the command and its options are walked in their order, against the signatures
of the classes that they name. The first entry that does not fit is the mistake. The message gives
its key, its file and line, its value, the type that was expected, and the known names near it.
"""

__all__ = ["explain"]

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from .configs import is_problem, stage_of
from .errors import CommandError
from .reader import Key, KeyLoader, read_config, refuse
from .signatures import class_types, find, fits, options_of, type_name

PARTS = ("class_path", "init_args", "dict_kwargs")


class Dotted(dict[str, Any]):
    r"""The content of an option such as `--model.lr`, which may leave out `init_args`."""


def explain(error: ArgumentError, verb: str, parser: ArgumentParser, argv: Sequence[str]) -> str:
    r"""Returns a sentence about the mistake in a command.

    Arguments:
        error: The error of jsonargparse. Its last line is the answer if no mistake is found.
        verb: The verb.
        parser: The parser of its options.
        argv: The options.
    """
    try:
        Walk(verb, parser).command(argv)
    except CommandError as mistake:
        return str(mistake)
    return str(error).strip().splitlines()[-1].strip(" -")


class Walk:
    r"""Creates a walk through the configurations of one command.

    Arguments:
        verb: The verb.
        parser: The parser of its options.
    """

    def __init__(self, verb: str, parser: ArgumentParser) -> None:
        # the verb, and the last class at each key
        self.owners = {"": options_of(parser, f"namm {verb}")}
        self.given: set[str] = set()  # the keys that have a value

    def command(self, argv: Sequence[str]) -> None:
        r"""Raises the first mistake in the options of a command as a `CommandError`."""
        for name, value in pairs(argv):
            if name == "config":
                self.options("", content_of(value))
            elif not name.endswith(".help"):
                *heads, last = name.split(".")
                content = Dotted({last: parsed(value)})
                for head in reversed(heads):
                    content = Dotted({head: content})
                self.options("", content)
        for key, owner in self.owners.items():
            if lacking := [name for name in owner.needs if join(key, name) not in self.given]:
                where = ", in a file given with -c" if "config" in owner.hints else ""
                refuse(key, f"{owner.name} needs {', '.join(lacking)}{where}")

    def options(self, key: str, content: Any, group: str = "") -> None:
        r"""Walks the options of the verb or class at a key, or a group of these options."""
        owner = self.owners[key]
        if not isinstance(content, dict):
            refuse(join(key, group), f"expected options by name, got '{text(content)}'")
        for at, value in content.items():
            name = join(group, at)
            inner = join(key, name)
            if owner.hints.get(name) is not None:
                self.given.add(inner)
                self.value(owner.hints[name], inner, value, at, owner.defaults[name])
            elif any(other.startswith(f"{name}.") for other in owner.hints):
                self.options(key, opened(value, inner, at), name)
            elif name not in owner.hints:
                refuse(key, f"{owner.name} has no option '{name}'", at, name, owner.hints)

    def value(self, hint: Any, key: str, value: Any, at: str, default: Any = None) -> None:
        r"""Walks the value of a key, which must be of a type."""
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        items = [arg for kind in kinds for arg in get_args(kind) if class_types(arg)]
        classes = class_types(hint)
        value = opened(value, key, at) if classes else value
        if items and isinstance(value, list):
            for number, item in enumerate(value):
                self.value(items[0], f"{key}[{number}]", item, at)
        elif classes and isinstance(value, dict):
            self.part(classes, key, value, at, default)
        elif any(fits(kind, value) for kind in kinds if not class_types(kind)):
            return
        elif classes and isinstance(value, str):
            self.choose(classes, key, value, at)
        elif not fits(hint, value):
            wanted, got = " or ".join(map(type_name, kinds)), text(value)
            refuse(key, f"expected {wanted}, got '{got}'", at, got, wanted.split("'")[1::2])

    def part(self, classes: tuple[type, ...], key: str, part: Any, at: str, default: Any) -> None:
        r"""Walks the class at a key, and its arguments."""
        bare = isinstance(part, Dotted) or any(map(is_dataclass, classes))
        if bare and not any(name in PARTS for name in part):
            part = {"init_args": part}
        for name in part:
            if name not in PARTS:
                mistake = f"a class is given by class_path and init_args, not by {name}"
                refuse(key, mistake, name, name, PARTS)
        for name in part:
            if name == "class_path":
                self.choose(classes, key, part[name], name)
        if key not in self.owners:
            path = default.get("class_path") if hasattr(default, "get") else None
            target = find(classes, path, key, at) if path else classes[0]
            if inspect.isabstract(target) or target.__module__.startswith("lightning."):
                refuse(key, "there are init_args, but no class_path", at)
            self.owners[key] = options_of(target)
        if "init_args" in part:
            self.options(key, part["init_args"])

    def choose(self, classes: tuple[type, ...], key: str, path: str, at: str) -> None:
        r"""Notes the class of a key, and forgets the parts of the class before."""
        below = (f"{key}.", f"{key}[")
        self.owners = {k: v for k, v in self.owners.items() if not k.startswith(below)}
        self.owners[key] = options_of(find(classes, path, key, at))


def content_of(name: str) -> dict[str, Any]:
    r"""Returns the content of a configuration, given by its file or as FILE::STAGE."""
    if not is_problem(name):
        return read_config(Path(name), KeyLoader)
    problem, stage = stage_of(name)
    return problem.config(stage)


def pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    r"""Yields the names and values of the options in a command."""
    words = [*argv]
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and not equals and words and not words[0].startswith(("--", "-c")):
            value = words.pop(0)
        yield "config" if name == "c" else name.rstrip("+"), value


def parsed(value: str) -> Any:
    r"""Returns the value of an option as YAML, or as text if it is none."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def opened(value: Any, key: str, at: str) -> Any:
    r"""Returns the content of the file that a value names, or the value if it names none."""
    if not isinstance(value, str) or not value.endswith((".yaml", ".yml")):
        return value
    folder = Path(at.file).parent if isinstance(at, Key) else Path()
    return read_config(folder / value, KeyLoader, key, at)


def text(value: Any) -> str:
    r"""Returns a value in a form that fits in a sentence."""
    return value if isinstance(value, str) else json.dumps(value, default=str)[:60]


def join(key: str, name: str) -> str:
    return f"{key}.{name}".strip(".")
