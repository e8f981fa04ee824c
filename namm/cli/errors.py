r"""The errors that end a command, and the known names near one that is not known."""

__all__ = ["CommandError", "Interrupted", "nearest"]

from collections.abc import Iterable
from difflib import get_close_matches


class CommandError(Exception):
    r"""A mistake in a command line or in a configuration: exit code 2."""


class Interrupted(Exception):
    r"""A stop from outside, by Ctrl-C (exit code 130) or SIGTERM (143)."""

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


def nearest(name: str, known: Iterable[str]) -> str:
    r"""Returns a line with the known names that are near, or nothing.

    Arguments:
        name: The name that is not known.
        known: The known names. Of dotted names the last part is compared.
    """

    def tail(word: str) -> str:
        return word.removesuffix(".yaml").split(".")[-1].lower()

    tails = {tail(candidate): candidate for candidate in known}
    close = get_close_matches(tail(name), tails, n=3, cutoff=0.7)
    return f"\n  did you mean: {', '.join(tails[tail] for tail in close)}?" if close else ""
