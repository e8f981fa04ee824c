r"""Fills in the padding and the channels that a configuration leaves to its data."""

__all__ = ["fill"]

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from jsonargparse import Namespace

UNSET = 3  # the default of `in_channels` and `out_channels` in diffusers


class Data(Protocol):
    r"""The properties of a data module that its networks depend on."""

    @property
    def boundary(self) -> dict[str, str] | None: ...

    @property
    def channels(self) -> int | None: ...


def fill(config: Any, build: Callable[[], Data]) -> None:
    r"""Gives the networks in a configuration the padding and the channels of the data.

    The padding of a periodic axis is circular, and the padding of any other axis replicate. The
    `in_channels` and the `out_channels` of a network of diffusers are the channels of the data
    times `patch²`. A value that the configuration gives stays. A value that the data do not know
    stays as it is, and a network that needs the value refuses null.

    Arguments:
        config: The configuration of a model: mappings, or namespaces, with null for a value that
            is left to the data, or the default of diffusers. It is changed.
        build: Returns the data module. It is called once, and only if a value is left to the data.
    """
    if not (found := [*unfilled(config)]):
        return
    data = build()
    for arguments, name, factor in found:
        if name == "padding" and data.boundary is not None:
            kinds = data.boundary.values()
            arguments[name] = ["circular" if k == "periodic" else "replicate" for k in kinds]
        elif name != "padding" and data.channels is not None:
            arguments[name] = factor * data.channels


def unfilled(config: Any) -> Iterator[tuple[Any, str, int]]:
    r"""Yields the arguments of classes that leave their padding or channels to the data, with the
    number of channels of the network for each channel of the data."""
    content = vars(config) if isinstance(config, Namespace) else config
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    for key, part in parts:
        if key == "init_args" and part:
            names = ("padding", "channels")
            yield from ((part, name, 1) for name in names if part.get(name, "") is None)
            net = part.get("net")
            inner = net.get("init_args") if isinstance(net, (Namespace, dict)) else None
            if inner and "patch" in part:
                names = ("in_channels", "out_channels")
                left = [name for name in names if inner.get(name, "") in (None, UNSET)]
                yield from ((inner, name, part["patch"] ** 2) for name in left)
        if isinstance(part, (Namespace, dict, list)):
            yield from unfilled(part)
