r"""The networks of the two maps.

The forward map is by default the gradient of an input-convex potential,

.. math:: g(x) = (1 - a) \nabla \phi(x) + a x,

so that its Jacobian is symmetric and at least :math:`a I`: it is injective and its image is open.
The inverse map is any network from fields to fields.
"""

__all__ = ["ICNN", "PatchNet", "ResNet"]

from collections.abc import Sequence
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from constraints import BelowOne, InputError, Natural, OpenShare, PositiveInt, Ranged

from .padding import AxisConv2d, AxisConvTranspose2d, Padding, known


class ICNN(Ranged, nn.Module):
    r"""Creates the gradient of a strongly convex potential made of an input-convex network.

    .. math::
        z_0 = \rho(q_0(x)^2 + l_0(x)), \quad
        z_{k+1} = \rho(w_k z_k + q_{k+1}(x)^2 + l_{k+1}(x)), \quad
        \phi(x) = \sum w_L z_L

    with 3x3 convolutions q, l (free) and w (non-negative), and :math:`\rho` a leaky ReLU of slope
    0.2. The potential sums over pixels, where the published code averages: so the map does not
    depend on the size of the grid, and its learned part does not vanish as one over that size.

    The weights w start as small as 1e-3, and products of them are subnormal numbers, on which a
    CPU is very slow: call `torch.set_flush_denormal(True)` before training, as the command line
    does.

    References:
        Input Convex Neural Networks (Amos et al., 2017)
        https://arxiv.org/abs/1609.07152

        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        channels: The number C of channels of the field. A command takes it from the data.
        width: The number of filters.
        layers: The number L of layers above the first.
        strength: The strong convexity a, in (0, 1).
        padding: The padding modes of the last two axes. A command takes them from the data.
    """

    def __init__(
        self,
        channels: PositiveInt | None = None,
        width: PositiveInt = 32,
        layers: PositiveInt = 3,
        strength: OpenShare = 0.9,
        padding: Sequence[Padding] | None = None,
    ) -> None:
        super().__init__()
        channels, padding = known(self, channels, padding)
        self.strength = strength
        # q and l of all layers see the same x: one convolution computes them all
        self.free = AxisConv2d(channels, 2 * (layers + 1) * width, 3, padding=padding)
        self.convex = nn.ModuleList(
            AxisConv2d(width, width, 3, bias=False, padding=padding) for _ in range(layers)
        )
        self.out = AxisConv2d(width, channels, 3, bias=False, padding=padding)
        for conv in (*self.convex, self.out):
            nn.init.uniform_(conv.weight, 0, 1e-3)

    def potential(self, x: Tensor) -> Tensor:
        r"""Returns :math:`\phi`.

        Arguments:
            x: The fields, with shape `(B, C, H, W)`.

        Returns:
            The potentials, with shape `(B,)`.
        """
        q, free = self.free(x).chunk(2, dim=1)
        terms = (q.square() + free).chunk(len(self.convex) + 1, dim=1)
        z = F.leaky_relu(terms[0], 0.2)
        for conv, term in zip(self.convex, terms[1:], strict=True):
            z = F.leaky_relu(conv(z) + term, 0.2)
        out: Tensor = self.out(z)
        return out.flatten(1).sum(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        r"""Returns :math:`g(x)`, with the shape `(B, C, H, W)` of `x`."""
        q, free = self.free(x).chunk(2, dim=1)
        slopes = self._slopes(q, free)
        # written out, the gradient of the potential is a chain of adjoints; the slopes are
        # constant almost everywhere, so a gradient of it needs no second pass over the potential
        v = self.out.adjoint(torch.ones_like(x)) * slopes[-1]
        terms = [v]
        for conv, slope in zip(reversed(self.convex), reversed(slopes[:-1]), strict=True):
            v = conv.adjoint(v) * slope  # type: ignore[operator]
            terms.insert(0, v)
        v = torch.cat(terms, dim=1)
        gradient = self.free.adjoint(torch.cat([2 * q * v, v], dim=1))
        return (1 - self.strength) * gradient + self.strength * x

    @torch.no_grad()
    def _slopes(self, q: Tensor, free: Tensor) -> list[Tensor]:
        first, *terms = (q.square() + free).chunk(len(self.convex) + 1, dim=1)
        u, slopes = first, [_slope(first)]
        for conv, term in zip(self.convex, terms, strict=True):
            u = conv(u * slopes[-1]) + term
            slopes.append(_slope(u))
        return slopes

    def excess(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Returns :math:`\nabla \phi(x)`, which the regulariser keeps sparse, from `y = g(x)`."""
        return (y - self.strength * x) / (1 - self.strength)

    def regulariser(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Returns the mean of :math:`|\nabla \phi(x)|`, from `y = g(x)`."""
        return self.excess(x, y).abs().mean()

    @torch.no_grad()
    def clamp_(self) -> None:
        r"""Makes the weights w non-negative again; to be called after each optimiser step."""
        for conv in (*self.convex, self.out):
            conv.weight.clamp_(min=0)


class ResNet(Ranged, nn.Module):
    r"""Creates the residual generator of the reference: a 7x7 convolution, two of stride 2,
    residual blocks with instance normalisation, two transposed convolutions and a last 7x7
    convolution.

    Arguments:
        channels: The number of channels of the field. A command takes it from the data.
        width: The number of filters at full resolution.
        blocks: The number of residual blocks at a quarter of the resolution.
        dropout: The dropout probability inside the blocks, while training.
        skip: Whether to add the input to the output.
        softplus: Whether to end on a softplus; for parity with the reference, since it also hides
            small negative values.
        padding: The padding modes of the last two axes. A command takes them from the data.
    """

    def __init__(
        self,
        channels: PositiveInt | None = None,
        width: PositiveInt = 64,
        blocks: Natural = 6,
        dropout: BelowOne = 0.5,
        skip: bool = True,
        softplus: bool = False,
        padding: Sequence[Padding] | None = None,
    ) -> None:
        super().__init__()
        channels, padding = known(self, channels, padding)
        self.skip, self.softplus = skip, softplus

        def unit(conv: nn.Module, features: int) -> list[nn.Module]:
            return [conv, nn.InstanceNorm2d(features, affine=True), nn.ReLU()]

        layers = unit(AxisConv2d(channels, width, 7, padding=padding), width)
        for n in (width, 2 * width):
            layers += unit(AxisConv2d(n, 2 * n, 3, stride=2, padding=padding), 2 * n)
        for _ in range(blocks):
            inner = unit(AxisConv2d(4 * width, 4 * width, 3, padding=padding), 4 * width)
            inner += [
                nn.Dropout(dropout),
                AxisConv2d(4 * width, 4 * width, 3, padding=padding),
                nn.InstanceNorm2d(4 * width, affine=True),
            ]
            layers.append(_Residual(nn.Sequential(*inner)))
        for n in (4 * width, 2 * width):
            layers += unit(AxisConvTranspose2d(n, n // 2, padding=padding), n // 2)
        layers.append(AxisConv2d(width, channels, 7, padding=padding))
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, y: Tensor) -> Tensor:
        r"""Maps fields `(B, C, H, W)` to fields of the same shape; H and W multiples of 4."""
        _check_stride(y, 4)
        x = self.layers(y)
        x = x + y if self.skip else x
        return F.softplus(x) if self.softplus else x


class PatchNet(Ranged, nn.Module):
    r"""Creates a network that works on patches, where a CPU is fast, and finishes at full
    resolution.

    A stem at full resolution, patches to channels, residual blocks with group normalisation and
    SiLU on the coarse grid, channels to patches, and light convolutions at full resolution.
    There is no skip from input to output: a skip would have to cancel the noise of the input
    exactly.

    Arguments:
        channels: The number of channels of the field. A command takes it from the data.
        patch: The side of a patch, which is the total stride.
        width: The number of features on the coarse grid.
        blocks: The number of residual blocks on the coarse grid.
        detail: The number of filters at full resolution.
        finish: The number of 5x5 convolutions at full resolution before the last.
        dilations: The dilations of the blocks in turn, begun again where they end. Rules that tie
            distant points, such as a symmetry or a total, need blocks that see far.
        bfloat16: Whether the coarse grid computes in bfloat16 while training, where most of the
            operations are. Evaluation is in full precision. A gain only where there are matrix
            instructions for it.
        padding: The padding modes of the last two axes. A command takes them from the data.
    """

    def __init__(
        self,
        channels: PositiveInt | None = None,
        patch: PositiveInt = 4,
        width: PositiveInt = 96,
        blocks: Natural = 6,
        detail: PositiveInt = 24,
        finish: Natural = 2,
        dilations: Sequence[PositiveInt] = (1,),
        bfloat16: bool = False,
        padding: Sequence[Padding] | None = None,
    ) -> None:
        super().__init__()
        channels, padding = known(self, channels, padding)
        self.patch, self.in_bfloat16 = patch, bfloat16

        def block(dilation: int) -> nn.Module:
            layers = [
                nn.Sequential(
                    nn.GroupNorm(8, width),
                    nn.SiLU(),
                    AxisConv2d(width, width, 3, padding=padding, dilation=dilation),
                )
                for _ in range(2)
            ]
            return _Residual(nn.Sequential(*layers))

        self.stem = AxisConv2d(channels, detail, 5, padding=padding)
        self.down = nn.Conv2d(detail * patch**2, width, 1)
        self.blocks = nn.Sequential(*map(block, islice(cycle(dilations), blocks)))
        self.up = nn.Conv2d(width, detail * patch**2, 1)
        layers: list[nn.Module] = []
        for _ in range(finish):
            layers += [nn.SiLU(), AxisConv2d(detail, detail, 5, padding=padding)]
        self.finish = nn.Sequential(
            *layers, nn.SiLU(), AxisConv2d(detail, channels, 5, padding=padding)
        )
        # convolutions with few channels are faster so, group normalisation has no tangent so
        for part in (self.stem, self.finish):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, y: Tensor) -> Tensor:
        r"""Maps fields `(B, C, H, W)` to fields of the same shape; H and W multiples of
        `patch`."""
        _check_stride(y, self.patch)
        h = self.stem(y)
        reduced = self.in_bfloat16 and self.training
        with torch.autocast(y.device.type, torch.bfloat16, enabled=reduced):
            z = F.pixel_unshuffle(F.silu(h), self.patch).contiguous()
            z = self.up(self.blocks(self.down(z)))
        out: Tensor = self.finish(h + F.pixel_shuffle(z.to(h.dtype), self.patch))
        return out


def _slope(u: Tensor) -> Tensor:
    # of the leaky ReLU
    return 0.2 + 0.8 * (u > 0).to(u)


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.inner(x)
        return x + change


def _check_stride(y: Tensor, stride: int) -> None:
    if y.shape[-2] % stride or y.shape[-1] % stride:
        raise InputError(
            f"f expects sides that are multiples of {stride}, got {tuple(y.shape[-2:])}."
        )
