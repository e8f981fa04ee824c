r"""Reads configurations, and tells of the mistakes in them."""

__all__ = ["Key", "KeyLoader", "parse_config", "read_config", "refuse"]

from collections.abc import Iterable
from os.path import relpath
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import CommandError, nearest

LARGEST = 1_000_000  # bytes of a file, and values of its content with all anchors written out


class Key(str):
    r"""A key of a configuration, with its file and its line."""

    file: str
    line: int


class KeyLoader(yaml.SafeLoader):
    r"""Loads YAML whose keys are each a `Key`. A key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for at, _ in node.value:
            if not isinstance(at, yaml.ScalarNode) or at.value in seen:
                text = isinstance(at, yaml.ScalarNode)
                fault = f"'{at.value}' again" if text else "a key is no text"
                raise yaml.MarkedYAMLError(None, None, fault, at.start_mark)
            seen.add(at.value)
        self.flatten_mapping(node)
        content = {}
        for at, child in node.value:
            key = Key(at.value)
            key.file, key.line = self.name, at.start_mark.line + 1
            content[key] = self.construct_object(child, deep=True)
        return content


def read_config(
    file: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader, key: str = "", at: str = ""
) -> dict[str, Any]:
    r"""Returns the content of a configuration.

    Arguments:
        file: The file.
        loader: The loader. With a `KeyLoader` the keys know their places.
        key: The key that names the file, if there is one.
        at: The same key as it stands in its file.

    Raises:
        CommandError: If there is no such file, if it is too large, or if it is no YAML mapping.
    """
    if file.exists() and not file.is_file():
        refuse(key, f"{relpath(file)} is no regular file", at)
    if not file.is_file():
        near = (path.name for path in file.parent.glob("*"))
        refuse(key, f"there is no file '{relpath(file)}'", at, file.name, near)
    if file.stat().st_size > LARGEST:
        refuse(key, f"{file} has {file.stat().st_size} bytes, too many for a configuration", at)
    try:
        text = file.read_text("utf-8")
    except ValueError as error:
        refuse("", f"{file} is not valid YAML: {error}")
    return parse_config(text, str(file), loader)


def parse_config(text: str, name: str, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    r"""Returns the content of a configuration that has been read.

    Arguments:
        text: The text of the configuration.
        name: Its file, for the messages.
        loader: The loader.

    Raises:
        CommandError: If the text is no YAML mapping, or if its anchors make it endless.
    """
    try:
        reader = loader(text)
        reader.name = name
        content = reader.get_single_data()
        if (parts := size(content, {})) > LARGEST:
            refuse("", f"{name} has {parts} values by its anchors: write them out")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        refuse("", f"{name} is not valid YAML: {error.problem} in line {line}")
    except (yaml.YAMLError, ValueError, TypeError) as error:  # such as an impossible date
        refuse("", f"{name} is not valid YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        refuse("", f"{name} is not valid YAML: it has too many levels")
    if not isinstance(content, dict):
        refuse("", f"{name} is no configuration: it needs keys such as 'model' and 'data'")
    return content


def size(content: Any, known: dict[int, int]) -> int:
    r"""Returns the number of values in a configuration, each as often as anchors repeat it."""
    if isinstance(content, dict | list) and id(content) not in known:
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(size(part, known) for part in parts)
    return known.get(id(content), 1)


def refuse(
    key: str, mistake: str, at: str = "", name: str = "", known: Iterable[str] = ()
) -> NoReturn:
    r"""Raises a `CommandError`.

    Arguments:
        key: The key of the value that is wrong, if there is one.
        mistake: The message, without its period.
        at: The key that is nearest to the mistake. A `Key` adds its file and line to the message.
        name: A name that is not known.
        known: The known names. The message suggests those that are near.
    """
    place = f" ({at.file}, line {at.line})" if isinstance(at, Key) else ""
    where = f"{key}: " if key else ""
    raise CommandError(f"{where}{mistake}{place}.{nearest(name, known)}")
