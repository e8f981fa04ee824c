r"""The parser of the verbs that are not Lightning's."""

__all__ = ["TRUST", "VerbParser"]

from argparse import ArgumentParser
from typing import Any, NoReturn

from .errors import CommandError

# the option of every verb that reads files
TRUST: dict[str, Any] = {
    "action": "append",
    "type": str,
    "default": [],
    "metavar": "MODULE",
    "help": "A module of your own whose classes files may name; can be given again.",
}


class VerbParser(ArgumentParser):
    r"""Creates a parser that raises the mistakes in a command."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{self.prog}: {message}.")
