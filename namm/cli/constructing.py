r"""The errors that constructors raise, as sentences."""

__all__ = ["constructing"]

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from constraints import InputError

from .errors import CommandError


@contextmanager
def constructing() -> Iterator[None]:
    r"""Raises the refusal of a constructor as an `InputError`: the user wrote the value."""
    try:
        yield
    except (CommandError, OSError):
        raise
    except Exception as error:  # any error that a constructor raises
        origin: BaseException = error
        while origin.__cause__ is not None and not isinstance(origin, InputError):
            origin = origin.__cause__  # jsonargparse wraps all errors
        if isinstance(origin, (InputError, OSError)):
            raise origin from None
        expected = isinstance(origin, (ValueError, MisconfigurationException))
        kind = "" if expected else f"{type(origin).__name__}: "
        reason = kind + " ".join(str(origin)[:500].split())
        raise InputError(f"{reason} (NAMM_TRACEBACK=1 shows where)") from error
