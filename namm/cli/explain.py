r"""What is said when a command cannot do what it was asked to, and with which exit code.

A mistake in a command or a configuration is answered in a sentence: where it is, what came, what
was wanted, and which known names are near. jsonargparse knows all of this, but reports it as an
outline of every type of every union that did not match; `explain` picks the deepest entry of that
outline, which is where the mistake is.
"""

__all__ = ["explain", "unreadable"]

import inspect
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from os.path import relpath
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from .errors import nearest


class Problem(NamedTuple):
    r"""An entry of the outline: the keys and classes above it, and what it says."""

    keys: list[str]
    classes: list[str]
    text: str


def explain(message: str, argv: Sequence[str], known: Iterable[str]) -> str:
    r"""Returns the sentence that says what is wrong with a command.

    Arguments:
        message: What jsonargparse says.
        argv: The command, verb first.
        known: The options of the verb, for example `trainer.max_epochs`.
    """
    if re.search("Problems parsing config|Unexpected config", message):
        return unreadable(argv) or message
    found = list(problems(message)) or [Problem([], [], message)]
    keys, classes, text = problem = max(found, key=lambda p: len(p.keys) + len(p.classes))
    owner = classes[-1] if classes else f"namm {argv[0]}"
    got = (re.findall(r"(?:Got value|Given value): (.*)", message) or [""])[0]

    def say(what: str, name: str = "", names: Iterable[str] = (), at: str | None = None) -> str:
        where = f"{'.'.join(keys)}: " if keys and keys != ["config"] else ""
        return f"{where}{what.rstrip('.')}{locate(at or name, argv)}.{nearest(name, names)}"

    if match := re.fullmatch(r"Config file loop detected: (\S+) -> \1", text):
        for file in (Path(config).parent / match[1] for config in config_files(argv)):
            if file.is_file() and (said := mistake(file, problem)):
                return explain(said, [argv[0], "-c", str(file)], known)
    if match := re.search(r"(?:exist: |path string: |class_path )'?(\S+\.ya?ml)\b", message):
        file = Path(match[1]).absolute()
        near = (path.name for path in file.parent.glob("*"))
        return say(f"there is no file '{relpath(file)}'", file.name, near)
    if match := re.search(r"(?:accept option|Option) '(.+?)'|unrecognized arguments: (\S+)", text):
        option = (match[1] or match[2]).lstrip("-").split("=")[0]
        head, heads = option.split(".")[0], {name.split(".")[0] for name in known}
        if owner.startswith("lightning.Lightning"):  # what is assumed where no class is given
            return say("there are init_args, but no class_path", option)
        if classes:
            known = parameters(load(owner))
        elif head not in heads:
            option, known = head, heads
        return say(f"{owner} has no option '{option}'", option, known, option.split(".")[-1])
    if match := re.search(r"path string: (\S+)|module '(.+)' has no attribute '(.+)'", text):
        name = match[1] or f"{match[2]}.{match[3]}"
        return say(f"there is no class '{name}'", name, class_names(problem, match[2]))
    if match := re.search(r"No module named '(.+)'", text):
        return say(f"there is no module '{match[1]}'", match[1], modules())
    if match := re.search(r"Import path (\S+ |)does not correspond to a subclass of (\w+)", text):
        name = match[1].strip() or got
        some = sorted(class_names(problem))
        listed = f"; known are {', '.join(some)}" if len(some) < 100 else ""
        return say(f"{name} is not a {match[2]}{listed}", at=name)
    if match := re.search(r"arguments are required: (.+)", text):
        needed = match[1].replace(f"{argv[0]}.", "")
        where = "" if classes or argv[0] == "check" else ", in a file given with -c"
        return say(f"{owner} needs {needed}{where}")
    if text.startswith("Not a valid subclass"):
        parts = ("class_path", "init_args")
        given = [key for key in re.findall(r"'(\w+)':", got) if key not in parts]
        wrong = next((key for key in given if nearest(key, parts)), got[:60])
        return say(f"a class is given by class_path and init_args, not by {wrong}", wrong, parts)
    if text.startswith("Expected a"):
        same = [p.text for p in found if p.keys == keys and p.text.startswith("Expected a")]
        wanted = " or ".join(dict.fromkeys(map(plain, same)))
        at = f"{keys[-1].split('.')[-1]}: {got}" if keys else got
        return say(f"expected {wanted}, got '{got}'", got, wanted.split("'")[1::2], at)
    return say(text)


def mistake(file: Path, problem: Problem) -> str | None:
    r"""Returns what jsonargparse says of the class in a file that a configuration names. Where it
    is wrong, it says of the configuration only that the file was read twice.

    Arguments:
        file: The file.
        problem: The entry that says so.
    """
    parser, key = ArgumentParser(exit_on_error=False), problem.keys[-1]
    parser.add_argument(f"--{key}", type=hint_of(problem))
    try:
        parser.parse_object({key: yaml.safe_load(file.read_text("utf-8"))})
    except ArgumentError as error:
        return str(error)
    return None


def problems(message: str) -> Iterator[Problem]:
    r"""Yields those entries of jsonargparse's outline that say what is wrong."""
    above: list[tuple[int, str, str]] = []
    for line in filter(None, message.splitlines()):
        text = line.lstrip(" -")
        indent = len(line) - len(text)
        while above and above[-1][0] >= indent:
            above.pop()
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', text):
            above.append((indent, "key", match[1]))
            text = match[2]
        elif match := re.match(r"Problem with given class_path '([^']+)':(.*)", text):
            above.append((indent, "class", match[1]))
            text = match[2]
        if text and not re.match(r"Does not valid|Subtypes: |Errors:|Given|Expected a path", text):
            keys = [name for _, kind, name in above if kind == "key"]
            yield Problem(keys, [name for _, kind, name in above if kind == "class"], text)


def plain(text: str) -> str:
    r"""Returns the type that jsonargparse expected, as one would say it."""
    wanted = re.sub(r"^Expected an? |\. Got value:.*$", "", text)
    wanted = re.sub(r"<class '(?:\w+\.)*(.+?)'>", r"\1", wanted).replace("NoneType", "null")
    return re.sub(r"typing\.Literal\[(.+)\]", lambda m: m[1].replace(", ", " or "), wanted)


def config_files(argv: Sequence[str]) -> Iterator[str]:
    r"""Yields the configurations that a command names and that exist."""
    for flag, file in zip(argv, argv[1:], strict=False):
        if flag in ("-c", "--config") and Path(file).is_file():
            yield file


def locate(name: str, argv: Sequence[str]) -> str:
    r"""Returns the file and line of the command's configurations that hold a name, or nothing if
    it is on the command line itself."""
    pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
    if not name or any(pattern.search(word) for word in argv):
        return ""
    for file in config_files(argv):
        for number, line in enumerate(Path(file).read_text("utf-8").splitlines(), start=1):
            if pattern.search(line):
                return f" ({file}, line {number})"
    return ""


def unreadable(argv: Sequence[str]) -> str | None:
    r"""Returns what is wrong with the first configuration that is no YAML mapping."""
    for file in config_files(argv):
        try:
            content = yaml.safe_load(Path(file).read_text("utf-8"))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            return f"{file} is not valid YAML: {error.problem} in line {line}."
        if not isinstance(content, dict):
            return f"{file} holds no configuration: expected keys such as 'model' and 'data'."
    return None


def load(path: str) -> Any:
    r"""Returns the object with a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def modules() -> set[str]:
    r"""Returns the names of the modules that are imported, or lie in the working directory."""
    names = {*sys.modules, *(file.stem for file in Path().glob("*.py"))}
    return {name for name in names if "." not in name and not name.startswith("_")}


def parameters(target: Any) -> dict[str, Any]:
    r"""Returns the parameters of a function or of a class with its bases, and their types."""
    is_class = inspect.isclass(target)
    hints: dict[str, Any] = {}
    for function in [c.__init__ for c in reversed(target.__mro__)] if is_class else [target]:
        try:
            types = typing.get_type_hints(function)
        except NameError:  # a type that is imported for the type checker alone
            types = {}
        names = inspect.signature(function).parameters
        hints |= {name: types.get(name, Any) for name in names if name != "self"}
    return hints


def hint_of(problem: Problem) -> Any:
    r"""Returns the type that was expected where something was not understood."""
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    from constraints import Constraint

    *above, key = problem.keys or [""]
    if above:
        return parameters(load(problem.classes[len(above) - 1])).get(key)
    if key.startswith("trainer."):
        return parameters(Trainer).get(key.removeprefix("trainer."))
    hints = {"model": LightningModule, "data": LightningDataModule, "constraint": Constraint}
    return hints.get(key)


def class_names(problem: Problem, module: str | None = None) -> set[str]:
    r"""Returns the names of what could stand where one was not understood: the known subclasses of
    what was expected, and what the module offers in which it was looked for."""
    offered = vars(import_module(module)) if module else {}
    names = {f"{module}.{name}" for name, offer in offered.items() if callable(offer)}
    known = (cls for base in bases(hint_of(problem)) for cls in (base, *subclasses(base)))
    return names | {public(cls) for cls in known if not inspect.isabstract(cls)}


def bases(hint: Any) -> Iterator[type]:
    r"""Yields the classes that a type is made of."""
    if inspect.isclass(hint) and hint.__module__ != "builtins":
        yield hint
    for part in typing.get_args(hint):
        yield from bases(part)


def subclasses(base: type) -> Iterator[type]:
    r"""Yields all known classes below a base."""
    below: list[type] = base.__subclasses__()
    for cls in below:
        yield cls
        yield from subclasses(cls)


def public(cls: type) -> str:
    r"""Returns the shortest name by which a configuration can give a class."""
    package = cls.__module__.split(".")[0]
    exported = getattr(sys.modules.get(package), cls.__name__, None) is cls
    return f"{package}.{cls.__name__}" if exported else cls.__name__
