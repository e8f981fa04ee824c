r"""The parser of the verbs that are not Lightning's."""

__all__ = ["VerbParser"]

from argparse import ArgumentParser
from typing import NoReturn

from .errors import CommandError


class VerbParser(ArgumentParser):
    r"""Creates a parser that raises the mistakes in a command."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{self.prog}: {message}.")
