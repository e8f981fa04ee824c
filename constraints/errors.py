r"""The exception that says "this input does not fit", as opposed to a bug, and the checks of
numbers and of fields."""

__all__ = ["InputError", "check_fields", "check_range"]

from torch import Tensor


class InputError(ValueError):
    r"""Says in a sentence what came, what was wanted and what to do. The command line prints it
    without a traceback."""


def check_range(owner: object, interval: str, /, **numbers: float) -> None:
    r"""Checks that numbers lie in an interval.

    Arguments:
        owner: The object whose arguments are checked. The message names its class.
        interval: The interval in the notation of mathematics, such as `[0, inf)` or `(0, 1]`.
        numbers: The numbers by their names.

    Raises:
        InputError: If a number is outside of the interval or is not a number.
    """
    lower, upper = (float(end) for end in interval[1:-1].split(","))
    for name, number in numbers.items():
        above = number >= lower if interval[0] == "[" else number > lower
        below = number <= upper if interval[-1] == "]" else number < upper
        if not (above and below):
            kind = type(owner).__name__
            raise InputError(f"{kind} expects {name} in {interval}, got {number}.")


def check_fields(owner: object, x: Tensor, wanted: str, fits: bool) -> None:
    r"""Checks that an object can work on fields of a shape.

    Arguments:
        owner: The object. The message names its class.
        x: The fields, with shape `(B, C, *S)`.
        wanted: The fields that the object works on, such as `fields (B, 1, H, W)`.
        fits: Whether these fields are such fields.

    Raises:
        InputError: If they are not.
    """
    if not fits:
        kind = type(owner).__name__
        raise InputError(f"{kind} expects {wanted}, got fields of shape {tuple(x.shape)}.")
