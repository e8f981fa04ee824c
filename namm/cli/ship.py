r"""The verb `ship`: the weights of a run, for others to load."""

__all__ = ["main"]

from collections.abc import Sequence

from ..evaluation.shipping import ship
from ..training.trust import trusting
from .parser import parse_ship


def main(argv: Sequence[str]) -> None:
    r"""Ships what a command asks for.

    Arguments:
        argv: The options of the verb.
    """
    options = parse_ship(argv)
    with trusting(options.trust):
        ship(options.runs, options.folder, options.half, options.record, options.replace)
