r"""The parser of the verbs that are not Lightning's."""

__all__ = ["REPLACE", "TRUST", "VerbParser", "parse_run"]

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
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
REPLACE = "replace the files that are there"


class VerbParser(ArgumentParser):
    r"""Creates a parser that raises the mistakes in a command. It takes no option by its beginning
    alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{self.prog}: {message}.")


def parse_run(argv: Sequence[str]) -> Namespace:
    r"""Returns the options of the verb `run`."""
    parser = VerbParser(prog="namm run", description="Run the stages of a problem in order.")
    parser.add_argument("problem", type=Path, help="its file, configs/burgers.yaml")
    parser.add_argument("--scale", help="demo for configs/burgers.demo.yaml")
    parser.add_argument(
        "--pretrained", action="store_true", help="train nothing, take the shipped weights"
    )
    parser.add_argument(
        "--from", dest="first", metavar="STAGE", help="run this stage and all after it afresh"
    )
    parser.add_argument("--to", dest="last", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--replace", action="store_true", help=REPLACE)
    parser.add_argument("--dry-run", action="store_true", help="show the commands, run none")
    parser.add_argument("--trust", **TRUST)
    return parser.parse_args(argv)
