r"""The exception that says "this input does not fit", as opposed to a bug, and the check
of fields."""

__all__ = ["InputError", "check_fields"]

from torch import Tensor


class InputError(ValueError):
    r"""Says in a sentence what came, what was wanted and what to do. The command line prints it
    without a traceback."""


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
