r"""The parser of the verbs that are not Lightning's."""

__all__ = ["Parser"]

from argparse import ArgumentParser
from typing import NoReturn

from .explain import CommandError


class Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{self.prog}: {message}.")
