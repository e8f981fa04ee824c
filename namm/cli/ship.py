r"""The verb `ship`: the weights of a run, for others to load."""

__all__ = ["main"]

from collections.abc import Sequence
from pathlib import Path

from ..evaluation.shipping import ship
from ..training.trust import trusting
from ..training.weights import STAGES
from .parser import REPLACE, TRUST, VerbParser


def main(argv: Sequence[str]) -> None:
    r"""Ships what a command asks for.

    Arguments:
        argv: The options of the verb.
    """
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
    options = parser.parse_args(argv)
    with trusting(options.trust):
        ship(options.runs, options.folder, options.half, options.record, options.replace)
