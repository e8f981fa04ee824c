r"""The parsers of the verbs that are not Lightning's. They import nothing heavy."""

__all__ = ["REPLACE", "TRUST", "VerbParser", "parse_report", "parse_run", "parse_ship"]

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..training.stages import STAGES
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


def parse_report(argv: Sequence[str]) -> Namespace:
    r"""Returns the options of the verb `report`."""
    purpose = "Write the tables and the figure of finished stages."
    parser = VerbParser(prog="namm report", description=purpose)
    parser.add_argument("folder", type=Path, help="the folder of the runs, such as runs/burgers")
    parser.add_argument("--replace", action="store_true", help=REPLACE)
    parser.add_argument("--trust", **TRUST)
    return existing(parser, parser.parse_args(argv), "folder")


def parse_ship(argv: Sequence[str]) -> Namespace:
    r"""Returns the options of the verb `ship`."""
    parser = VerbParser(
        prog="namm ship", description="Write the weights of a run for others to load."
    )
    parser.add_argument("runs", type=Path, help="the folder of the runs, such as runs/burgers")
    parser.add_argument("folder", type=Path, help="where to, such as pretrained/burgers")
    parser.add_argument("--half", action="store_true", help="round to float16: half the size")
    parser.add_argument(
        "--record",
        nargs="+",
        default=[],
        choices=STAGES,
        metavar="STAGE",
        help="write only the record of these trainings, without weights",
    )
    parser.add_argument("--replace", action="store_true", help=REPLACE)
    parser.add_argument("--trust", **TRUST)
    return existing(parser, parser.parse_args(argv), "runs")


def existing(parser: VerbParser, options: Namespace, name: str) -> Namespace:
    r"""Returns options of which one is a folder that exists."""
    if not (folder := getattr(options, name)).is_dir():
        parser.error(f"there is no folder '{folder}'")
    return options
