r"""Fills in the padding and the channels that a configuration leaves to its data."""

__all__ = ["fill"]

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from jsonargparse import Namespace


class Data(Protocol):
    r"""The properties of a data module that its networks depend on."""

    @property
    def boundary(self) -> dict[str, str] | None: ...

    @property
    def channels(self) -> int | None: ...


def fill(config: Any, build: Callable[[], Data]) -> None:
    r"""Gives the networks in a configuration the padding and the channels of the data.

    The padding of a periodic axis is circular, and the padding of any other axis replicate. A
    value that the configuration gives stays. A value that the data do not know stays null, which a
    network that needs the value refuses.

    Arguments:
        config: The configuration of a model: mappings, or namespaces, with null for a value that
            is left to the data. It is changed.
        build: Returns the data module. It is called once, and only if a value is null.
    """
    if not (found := [*unfilled(config)]):
        return
    data = build()
    for arguments, name in found:
        if name == "channels":
            arguments[name] = data.channels
        elif data.boundary is not None:
            kinds = data.boundary.values()
            arguments[name] = ["circular" if k == "periodic" else "replicate" for k in kinds]


def unfilled(config: Any) -> Iterator[tuple[Any, str]]:
    r"""Yields the arguments of classes that leave their padding or channels to the data."""
    content = vars(config) if isinstance(config, Namespace) else config
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    for key, part in parts:
        if key == "init_args" and part:
            names = ("padding", "channels")
            yield from ((part, name) for name in names if part.get(name, "") is None)
        if isinstance(part, (Namespace, dict, list)):
            yield from unfilled(part)
