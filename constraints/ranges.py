r"""Numbers with a range: types for the arguments of constructors, and their check.

The range of an argument stands in its type, such as `lr: NonNegativeFloat`. The help of the
command line prints the range, and every class below `Ranged` refuses a number outside of it.
"""

__all__ = [
    "BelowOne",
    "Integer",
    "Natural",
    "NonNegativeFloat",
    "OpenShare",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "Ranged",
    "Real",
    "Seed",
    "Share",
    "check_arguments",
    "check_range",
]

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from numbers import Integral
from numbers import Real as AnyReal
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from .errors import InputError


class Range(str):
    r"""An interval in the notation of mathematics, such as `[0, inf)` or `(0, 1]`."""

    __slots__ = ()
    __repr__ = str.__str__

    def holds(self, number: Any) -> bool:
        r"""Returns whether a number lies in the interval. NaN lies in no interval."""
        lower, upper = (float(end) for end in self[1:-1].split(","))
        above = number >= lower if self[0] == "[" else number > lower
        return bool(above and (number <= upper if self[-1] == "]" else number < upper))


Integer = Annotated[int, Range("(-inf, inf)")]
Real = Annotated[float, Range("(-inf, inf)")]
PositiveFloat = Annotated[float, Range("(0, inf)")]
NonNegativeFloat = Annotated[float, Range("[0, inf)")]
Share = Annotated[float, Range("[0, 1]")]
OpenShare = Annotated[float, Range("(0, 1)")]
BelowOne = Annotated[float, Range("[0, 1)")]
PositiveInt = Annotated[int, Range("[1, inf)")]
Natural = Annotated[int, Range("[0, inf)")]
Seed = Annotated[int, Range("[0, 4294967295]")]  # the seeds of NumPy and of Lightning


def check_range(owner: object, interval: str, /, **numbers: float) -> None:
    r"""Checks that numbers lie in an interval which depends on other arguments.

    Arguments:
        owner: The object whose arguments are checked, or its class, for the message.
        interval: The interval in the notation of mathematics, such as `[0, inf)` or `(0, 1]`.
        numbers: The numbers by their names.

    Raises:
        InputError: If a number is outside of the interval or is not a number.
    """
    for name, number in numbers.items():
        if not (isinstance(number, AnyReal) and Range(interval).holds(number)):
            kind = owner.__name__ if isinstance(owner, type) else type(owner).__name__
            raise InputError(f"{kind} expects {name} in {interval}, got {number}.")


class Ranged:
    r"""Base of the classes whose constructors refuse a value outside of the range of its type.

    The check comes before the constructor, and covers the arguments of the class and of its bases.

    Raises:
        InputError: If a number is outside of its range or is no number, if it is not whole where
            a whole number is expected, or if a value is none of the choices of its type.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        try:
            given = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
        except TypeError:  # which the constructor raises in its own words
            given = {}
        check_arguments(cls, {**given, **given.get("kwargs", {})})
        return super().__new__(cls)


def check_arguments(cls: type, given: Mapping[str, Any]) -> None:
    r"""Checks the arguments of a constructor. A dataclass calls it after its constructor.

    Arguments:
        cls: The class.
        given: The arguments by name.

    Raises:
        InputError: If a value is outside of the range of its type.
    """
    hints = _hints(cls)
    for name, value in given.items():
        for wanted in _outside(hints.get(name), value):
            got = " ".join(repr(value).split())[:60]
            raise InputError(f"{cls.__name__} expects {name} {wanted}, got {got}.")


@cache
def _hints(cls: type) -> dict[str, Any]:
    r"""Returns the types of the arguments of the constructors of a class and of its bases."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if inspect.isfunction(method := vars(base).get("__init__")):
            with suppress(NameError):  # of a type that a user's class imports for a checker alone
                hints |= get_type_hints(method, include_extras=True)
    return hints


def _outside(hint: Any, value: Any) -> Iterator[str]:
    r"""Yields the range of each part of a value that is outside of its range."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number = value.item() if getattr(value, "ndim", None) == 0 else value
        for interval in (arg for arg in args if isinstance(arg, Range)):
            if not (isinstance(number, AnyReal) and interval.holds(number)):
                yield f"in {interval}"
            elif args[0] is int and not isinstance(number, Integral):
                yield "as a whole number"
    elif origin is Literal:
        if value not in args:
            yield f"as {', '.join(map(repr, args[:-1]))} or {args[-1]!r}"
    elif origin in (Union, UnionType):
        for arg in args:
            if _alike(arg, value):
                yield from _outside(arg, value)
    elif isinstance(value, Mapping) and len(args) == 2:
        for item in value.values():
            yield from _outside(args[1], item)
    elif isinstance(value, Sequence) and not isinstance(value, str) and args:
        fixed = origin is tuple and args[-1] is not ...
        for arg, item in zip(args if fixed else args[:1] * len(value), value, strict=False):
            yield from _outside(arg, item)


def _alike(hint: Any, value: Any) -> bool:
    r"""Returns whether a value is a number or a name where one is expected, and else is none."""
    return (get_origin(hint) in (Annotated, Literal)) == isinstance(value, AnyReal | str)
