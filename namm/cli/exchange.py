r"""Tells of arguments that stay where an option exchanges a class.

jsonargparse keeps the arguments of the class before that the new class has too: with 1000 steps in
a file, another solver takes 1000 steps.
"""

__all__ = ["kept_arguments"]

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .configs import configs, merge
from .early import content_of


def kept_arguments(argv: Sequence[str], config: Mapping[str, Any]) -> Iterator[str]:
    r"""Yields a sentence for each class that an option has exchanged, if it kept arguments.

    Arguments:
        argv: The options of a command, with its configurations as -c FILE or -c FILE::STAGE.
        config: The configuration that the command runs with, as plain data.
    """
    given: dict[str, Any] = {}
    words = [word.partition("=")[0].replace(".init_args.", ".") for _, word in configs(argv)]
    for flag, word in configs(argv):
        given = merge(given, content_of(word)) if flag else given
    for key, before in classes(given):
        after: Any = config
        for name in key.split("."):
            after = after.get(name) if isinstance(after, Mapping) else None
        if not isinstance(after, Mapping) or same(before["class_path"], after.get("class_path")):
            continue
        short = f"--{key}".replace(".init_args.", ".")
        kept = [name for name in before["init_args"] if name in (after.get("init_args") or {})]
        if kept := [name for name in kept if f"{short}.{name}" not in words]:
            new, old = str(after.get("class_path")), str(before["class_path"])
            yield (
                f"{key} is now {new.split('.')[-1]}, and keeps {', '.join(kept)} of "
                f"{old.split('.')[-1]} in the file: give these too if you mean other values."
            )


def classes(part: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Yields the classes with arguments in a configuration, by their keys."""
    if not isinstance(part, dict):
        return
    if isinstance(part.get("init_args"), dict) and "class_path" in part:
        yield key, part
    for name, value in part.items():
        yield from classes(value, f"{key}.{name}".lstrip("."))


def same(one: Any, other: Any) -> bool:
    r"""Returns whether two paths name one class: either may be short."""
    return str(one).split(".")[-1] == str(other).split(".")[-1]
