r"""The exception that says "this input does not fit", as opposed to a bug, and the check of
numbers."""

__all__ = ["InputError", "check_range"]


class InputError(ValueError):
    r"""Says in a sentence what came, what was wanted and what to do. The command line prints it
    without a traceback."""


def check_range(owner: object, interval: str, **numbers: float) -> None:
    r"""Checks that numbers lie in an interval.

    Arguments:
        owner: The object whose arguments are checked. The message names its class.
        interval: The interval in the notation of mathematics, such as `[0, inf)` or `(0, 1]`.
        numbers: The numbers by their names.

    Raises:
        InputError: If a number is outside of the interval or is not a number.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, number in numbers.items():
        above = number >= low if interval[0] == "[" else number > low
        below = number <= high if interval[-1] == "]" else number < high
        if not (above and below):
            kind = type(owner).__name__
            raise InputError(f"{kind} expects {name} in {interval}, got {number}.")
