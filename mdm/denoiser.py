r"""Denoisers: a diffusion prior is known through :math:`\hat y(y_t, t) = E[y \mid y_t]`.

A denoiser does not know whether its fields live in data space or in mirror space.
"""

__all__ = ["Denoiser", "DiffusersDenoiser", "load_denoiser"]

import abc
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from constraints import InputError, PositiveInt, Ranged, check_fields, check_result
from namm import Padding, in_python_alone, load_part, pad_per_axis

from .schedule import Schedule, VPSchedule


class Denoiser(Ranged, nn.Module, abc.ABC):
    r"""Base of all denoisers. A subclass defines `denoise`.

    Arguments:
        schedule: The noise schedule.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, y_t: Tensor, t: Tensor) -> Tensor:
        r"""Returns :math:`E[y \mid y_t]`.

        Arguments:
            y_t: The noisy fields, with shape `(B, C, *S)`.
            t: The times in (0, 1], with shape `()` or `(B,)`.

        Returns:
            The means, with shape `(B, C, *S)`.
        """
        check_fields(
            self, y_t, "float fields (B, C, *S)", y_t.is_floating_point() and y_t.ndim > 1
        )
        if t.ndim:
            check_result("The times t", t, len(y_t))
        y_hat = self.denoise(y_t, t.expand(len(y_t)))
        check_result(f"{type(self).__name__}.denoise(y_t, t)", y_hat, *y_t.shape)
        return y_hat

    @abc.abstractmethod
    def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
        r"""Returns :math:`E[y \mid y_t]` for times with shape `(B,)`."""

    def weight(self, t: Tensor) -> Tensor:
        r"""Returns the weight of the squared error at times `(B,)` in training."""
        return torch.ones_like(t)

    @property
    def template(self) -> Tensor:
        r"""A tensor of the device and the dtype in which the denoiser works."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.zeros(()))

    @property
    def field_std(self) -> Tensor:
        r"""The std of the fields, as a scalar: 1 unless the denoiser knows better."""
        return torch.ones(())

    def calibrate(self, y: Tensor) -> None:
        r"""Fits the scales of the preconditioning, if there is any, to fields `(N, C, *S)`."""


class DiffusersDenoiser(Denoiser):
    r"""Creates a denoiser from a network of diffusers, or any `net(y, t)` of that kind.

    The network F is preconditioned so that its input and its target have unit variance at all
    times, with the mean :math:`\mu` and the std s of the fields, and z the centred noisy field:

    .. math::
        \hat y = \mu + \frac{\alpha s^2}{v} z + \frac{s \sigma}{\sqrt{v}} F(z / \sqrt{v}, 1000 t
        - 1), \quad v = \alpha^2 s^2 + \sigma^2, \quad z = y_t - \alpha \mu.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        https://arxiv.org/abs/2206.00364

    Arguments:
        net: The network, for example a `diffusers.UNet2DModel` of `C patch²` channels in and out.
            A command takes these channels from the data.
        schedule: The noise schedule; `VPSchedule()` if missing.
        padding: The padding modes of the last two axes, given to all convolutions of the network.
            A command takes them from the data. A network without convolutions needs none.
        patch: The side of the patches that are folded into channels before the network, which
            makes it about `patch²` times cheaper.
        bfloat16: Whether the network computes in bfloat16 while training: a gain only where
            there are matrix instructions for it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule | None = None,
        padding: Sequence[Padding] | None = None,
        patch: PositiveInt = 1,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(schedule or VPSchedule())
        self.net = pad_per_axis(net, padding)
        self.patch, self.in_bfloat16 = patch, bfloat16
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    @property
    def field_std(self) -> Tensor:
        return self.std

    def calibrate(self, y: Tensor) -> None:
        if not y.std() > 0:
            raise InputError(f"Fields of training must differ, got the std {float(y.std()):g}.")
        self.mean.copy_(y.mean())
        self.std.copy_(y.std())

    def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
        axes = (-1, *[1] * (y_t.ndim - 1))
        alpha, sigma = (a.reshape(axes) for a in self.schedule(t.to(y_t)))
        z = y_t - alpha * self.mean
        scale = (alpha**2 * self.std**2 + sigma**2).sqrt()
        out = self._net(z / scale, 1000 * t - 1)
        return self.mean + alpha * (self.std / scale) ** 2 * z + self.std * sigma / scale * out

    def weight(self, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        return (alpha**2 * self.std**2 + sigma**2) / (self.std * sigma) ** 2

    def _check_grid(self, z: Tensor) -> None:
        # a UNet halves its grid once between each two of its levels
        levels = getattr(getattr(self.net, "config", None), "block_out_channels", (0,))
        stride = self.patch * 2 ** (len(levels) - 1)
        if z.shape[-2] % stride or z.shape[-1] % stride:
            sides = tuple(z.shape[-2:])
            raise InputError(
                f"{type(self).__name__} expects sides divisible by {stride}, got {sides}."
            )

    def _net(self, z: Tensor, t: Tensor) -> Tensor:
        reduced = self.in_bfloat16 and self.training
        with torch.autocast(z.device.type, torch.bfloat16, enabled=reduced):
            self._check_grid(z)
            z_in = F.pixel_unshuffle(z, self.patch) if self.patch > 1 else z
            out: Any = self.net(z_in, t.clamp(min=0))
        out = (out if isinstance(out, Tensor) else out.sample).to(z.dtype)
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out


@in_python_alone
def load_denoiser(
    checkpoint: str, weights: Literal["ema", "raw"] = "ema", *, trust: Sequence[str] = ()
) -> Denoiser:
    r"""Loads the trained denoiser of an `MDM` checkpoint.

    Arguments:
        checkpoint: The path of a checkpoint of `mdm.MDM`.
        weights: Whether to take the averaged weights or the raw ones.
        trust: The modules of your own whose classes the recipe of the denoiser may name, as
            `trust=["my_module"]` in Python alone.
    """
    denoiser: Denoiser = load_part(checkpoint, "denoiser", weights, kind=Denoiser, trust=trust)
    return denoiser
