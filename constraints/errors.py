r"""The exception that says "this input does not fit", as opposed to a bug, and the checks
of fields and of results."""

__all__ = ["InputError", "check_fields", "check_result"]

from typing import Any

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
        got = "" if x.is_floating_point() else "integer "
        raise InputError(f"{kind} expects {wanted}, got {got}fields of shape {tuple(x.shape)}.")


def check_result(name: str, result: Any, *shape: int | None) -> None:
    r"""Checks that the result of a user's method is a tensor of a shape.

    Arguments:
        name: The name of the result, such as `Burgers.residual(x)`, for the message.
        result: The result.
        shape: The first sides of the shape that is wanted. None is any number of further sides.

    Raises:
        InputError: If it is not.
    """
    sides = tuple(result.shape) if isinstance(result, Tensor) else None
    wanted = shape[:-1] if shape[-1] is None else shape
    if sides is None or sides[: len(wanted)] != wanted or (shape[-1] and sides != wanted):
        text = ", ".join("*" if side is None else str(side) for side in shape)
        got = type(result).__name__ if sides is None else f"a tensor of shape {sides}"
        raise InputError(f"{name} must be a tensor of shape ({text}), got {got}.")
