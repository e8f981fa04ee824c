r"""Reads configurations, and tells of the mistakes in them."""

__all__ = ["Key", "KeyLoader", "read_config", "refuse"]

from collections.abc import Iterable
from os.path import relpath
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import CommandError, nearest


class Key(str):
    r"""A key of a configuration, with its file and its line."""

    file: str
    line: int


class KeyLoader(yaml.SafeLoader):
    r"""Loads YAML whose keys are each a `Key`."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        content = {}
        for at, child in node.value:
            if not isinstance(at, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key is no text", at.start_mark)
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
        CommandError: If there is no such file, or if it is no YAML mapping.
    """
    if not file.is_file():
        near = (path.name for path in file.parent.glob("*"))
        refuse(key, f"there is no file '{relpath(file)}'", at, file.name, near)
    try:
        with file.open(encoding="utf-8") as text:
            content = yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        refuse("", f"{file} is not valid YAML: {error.problem} in line {line}")
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no UTF-8, or an impossible date
        refuse("", f"{file} is not valid YAML: {str(error).splitlines()[0]}")
    if not isinstance(content, dict):
        refuse("", f"{file} is no configuration: it needs keys such as 'model' and 'data'")
    return content


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
