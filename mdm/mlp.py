r"""A network for points: fields of a few numbers, which have no grid."""

__all__ = ["MLP"]

import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from constraints import InputError, Natural, PositiveInt, Ranged

FREQUENCIES = 32  # of the sines of the time


class Block(nn.Module):
    r"""Creates two linear layers beside a skip connection, shifted by the time.

    Arguments:
        width: The number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = nn.Linear(width, width)
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        change: Tensor = self.last(F.silu(self.first(F.silu(h)) + self.time(level)))
        return h + change


class MLP(Ranged, nn.Module):
    r"""Creates a multilayer perceptron for noisy points and their times, to be the network of a
    `DiffusersDenoiser`.

    Arguments:
        channels: The number of channels of a point; or of all numbers of a short field, such as a
            trajectory, which are taken for one point.
        width: The number of features of the hidden layers.
        layers: The number of residual blocks.
    """

    def __init__(
        self, channels: PositiveInt = 2, width: PositiveInt = 256, layers: Natural = 3
    ) -> None:
        super().__init__()
        self.channels = channels
        self.time = TimestepEmbedding(2 * FREQUENCIES, width, post_act_fn="silu")
        self.first = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.last = nn.Linear(width, channels)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        r"""Returns what the denoiser makes its estimate of.

        Arguments:
            z: The noisy points, with shape `(B, channels, 1, 1)`, or fields of as many numbers.
            t: The times in [0, 999], with shape `(B,)`.

        Returns:
            The outputs, with the shape of z.

        Raises:
            InputError: If the fields are not of so many numbers.
        """
        if z[0].numel() != self.channels:
            n, got = self.channels, tuple(z.shape)
            raise InputError(f"MLP expects fields of {n} numbers, (B, {n}, 1, 1), got {got}.")
        level = self.time(get_timestep_embedding(t, 2 * FREQUENCIES).to(z.dtype))
        h = self.first(z.flatten(1))
        for block in self.blocks:
            h = block(h, level)
        out: Tensor = self.last(F.silu(h))
        return out.reshape(z.shape)
