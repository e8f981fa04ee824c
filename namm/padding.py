r"""Convolutions whose padding follows the boundary of each axis.

A periodic axis is padded circularly and any other axis by replication, in every convolution,
strided and transposed ones included. A network built only of these is equivariant to shifts
along a periodic axis (by multiples of its total stride) and never mixes the two ends of an axis
that has ends.
"""

__all__ = ["AxisConv2d", "AxisConvTranspose2d", "Padding", "fold", "pad", "pad_per_axis"]

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from constraints import InputError, check_fields

Padding = Literal["circular", "replicate", "reflect", "constant"]


def pad(x: Tensor, width: Sequence[int], padding: Sequence[Padding]) -> Tensor:
    r"""Pads the last two axes on both sides, each in its own mode.

    Arguments:
        x: The fields, with shape `(B, C, H, W)`.
        width: The widths on each side of the last two axes.
        padding: The modes of the last two axes.

    Returns:
        The padded fields, with shape `(B, C, H + 2 width[0], W + 2 width[1])`.
    """
    for dim, w, mode in zip((-2, -1), width, padding, strict=True):
        if (mode == "circular" and w > x.shape[dim]) or (mode == "reflect" and w >= x.shape[dim]):
            n = x.shape[dim]
            raise InputError(
                f"A {mode} padding of {w} exceeds an axis of {n} points: enlarge the field."
            )
        # several times faster on a CPU than `torch.nn.functional.pad`, its gradient above all
        x = torch.cat(_ends(x, dim, w, mode), dim) if w else x
    return x


def _ends(x: Tensor, dim: int, w: int, mode: Padding) -> tuple[Tensor, Tensor, Tensor]:
    n = x.shape[dim]
    if mode == "circular":
        return x.narrow(dim, n - w, w), x, x.narrow(dim, 0, w)
    if mode == "reflect":
        return x.narrow(dim, 1, w).flip(dim), x, x.narrow(dim, n - 1 - w, w).flip(dim)
    front, back = (x.narrow(dim, k, 1).repeat_interleave(w, dim) for k in (0, n - 1))
    if mode == "replicate":
        return front, x, back
    return torch.zeros_like(front), x, torch.zeros_like(back)


def known(
    network: nn.Module, channels: int | None, padding: Sequence[Padding] | None
) -> tuple[int, Sequence[Padding]]:
    r"""Returns the channels and the padding of a network, and refuses a network without them.

    Arguments:
        network: The network.
        channels: The number of channels of a field.
        padding: The padding modes of the last two axes.
    """
    if channels is None or padding is None:
        raise InputError(
            f"{type(network).__name__} needs `channels`, and `padding` of the last two axes: "
            f"{', '.join(get_args(Padding))}, such as [circular, replicate]."
        )
    return channels, padding


def fold(x: Tensor, width: Sequence[int], padding: Sequence[Padding]) -> Tensor:
    r"""Returns the adjoint of `pad`: what lies outside is added to where it was taken from.

    Arguments:
        x: The padded fields, with shape `(B, C, H + 2 width[0], W + 2 width[1])`.
        width: The widths on each side of the last two axes.
        padding: The modes of the last two axes.

    Returns:
        The fields, with shape `(B, C, H, W)`.
    """
    for dim, w, mode in zip((-2, -1), width, padding, strict=True):
        n = x.shape[dim] - 2 * w
        front, x, back = x.split((w, n, w), dim)
        if not w or mode == "constant":
            continue
        x = x.clone()
        if mode == "circular":
            x.narrow(dim, n - w, w).add_(front)
            x.narrow(dim, 0, w).add_(back)
        elif mode == "replicate":
            x.narrow(dim, 0, 1).add_(front.sum(dim, keepdim=True))
            x.narrow(dim, n - 1, 1).add_(back.sum(dim, keepdim=True))
        else:
            x.narrow(dim, 1, w).add_(front.flip(dim))
            x.narrow(dim, n - 1 - w, w).add_(back.flip(dim))
    return x


class AxisConv2d(nn.Conv2d):
    r"""Creates a convolution with a padding mode per axis and the size of its input divided by the
    stride. It has the weights of a `torch.nn.Conv2d`.

    Arguments:
        in_channels: The number of input channels.
        out_channels: The number of output channels.
        kernel_size: The odd size of the kernel.
        stride: The stride.
        bias: Whether to add a bias.
        padding: The modes of the last two axes.
        dilation: The distance between neighbouring weights of the kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
        padding: Sequence[Padding] | None = None,
        dilation: int = 1,
    ) -> None:
        reach = dilation * (kernel_size // 2)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, reach, dilation, bias=bias
        )
        self.axes = tuple(known(self, in_channels, padding)[1])

    def forward(self, x: Tensor) -> Tensor:
        fits = x.ndim == 4 and x.shape[1] == self.in_channels and x.is_floating_point()
        check_fields(self, x, f"float fields (B, C, H, W) of {self.in_channels} channels", fits)
        x = pad(x, self.padding, self.axes)  # type: ignore[arg-type]
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def adjoint(self, v: Tensor) -> Tensor:
        r"""Returns the product of fields with the transposed Jacobian of this convolution.

        Arguments:
            v: The fields, with the shape of the output.

        Returns:
            The fields, with the shape of the input, which must be a multiple of the stride.
        """
        v = F.conv_transpose2d(
            v, self.weight, None, self.stride, 0, self._rest, self.groups, self.dilation
        )
        return fold(v, self.padding, self.axes)  # type: ignore[arg-type]

    @property
    def _rest(self) -> tuple[int, ...]:
        # the rows and columns that a stride leaves out at the end
        return tuple(s - 1 for s in self.stride)


class AxisConvTranspose2d(nn.ConvTranspose2d):
    r"""Creates a transposed convolution of kernel 3 and stride 2, which doubles both axes, with a
    padding mode per axis.

    Arguments:
        in_channels: The number of input channels.
        out_channels: The number of output channels.
        padding: The modes of the last two axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        padding: Sequence[Padding] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2)
        self.axes = tuple(known(self, in_channels, padding)[1])

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        h, w = x.shape[-2:]
        x = F.conv_transpose2d(pad(x, (1, 1), self.axes), self.weight, self.bias, stride=2)
        return x[..., 3 : 3 + 2 * h, 3 : 3 + 2 * w]


def pad_per_axis(module: nn.Module, padding: Sequence[Padding] | None) -> nn.Module:
    r"""Replaces every padded convolution inside a foreign network by an `AxisConv2d` with the same
    weights, in place; names and `state_dict` stay.

    Arguments:
        module: The network, for example a `diffusers.UNet2DModel`.
        padding: The modes of the last two axes.

    Returns:
        The same network.
    """
    replaced: dict[nn.Module, AxisConv2d] = {}
    for parent in list(module.modules()):
        for name, conv in list(parent._modules.items()):
            if type(conv) is not nn.Conv2d or conv.padding == (0, 0):
                continue
            if conv not in replaced:
                reach = tuple(
                    d * (k - 1) / 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
                )
                if conv.padding != reach:
                    raise InputError(
                        f"pad_per_axis expects a padding of {reach} of {name}: {conv}."
                    )
                new = AxisConv2d(conv.in_channels, conv.out_channels, 1, padding=padding)
                new.kernel_size, new.stride = conv.kernel_size, conv.stride
                new.padding, new.dilation = conv.padding, conv.dilation
                new.groups, new.weight, new.bias = conv.groups, conv.weight, conv.bias
                replaced[conv] = new
            setattr(parent, name, replaced[conv])
    return module
