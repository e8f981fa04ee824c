r"""Endless images of galaxies, to learn counting from."""

__all__ = ["CountingData"]

from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from constraints import Natural, PositiveInt, Seed, Share, check_range, noise, uniform

from .galaxies import draw_background, draw_catalogue, render
from .loaders import KeyedData

EPOCH = 1_000_000


class Skies(Dataset):
    r"""Creates the images of one split: item i is simulated from its key on access.

    Arguments:
        data: The data module, which states the points and the numbers of galaxies.
        split: The name of the split.
        size: The number of images.
        spoilt: The share of images that are blurred, faded and noisy.
    """

    def __init__(self, data: "CountingData", split: str, size: int, spoilt: float) -> None:
        self.key, self.points, self.numbers = (data.seed, split), data.points, data.numbers
        self.size, self.spoilt = size, spoilt

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, Any]:
        key = (*self.key, i)
        lowest, highest = self.numbers
        number, spoilt, blur, fade, std = uniform([(*key, "image")], (5,))[0].tolist()
        n = lowest + int(number * (highest - lowest + 1))
        catalogue = draw_catalogue(key, n, self.points)
        x = render(catalogue, draw_background(key, self.points))
        if spoilt < self.spoilt:
            x = torch.from_numpy(gaussian_filter(x.numpy(), 1.5 * blur, mode="nearest"))
            x = (1 - 0.5 * fade) * x + 0.2 * std * noise([(*key, "noise")], x.shape)[0]
        return {
            "x": x.float().unsqueeze(0),
            "n": n,
            "density": _density(catalogue[:, :2], self.points).float().unsqueeze(0),
            "index": i,
        }


def _density(centres: Tensor, points: int) -> Tensor:
    r"""Returns an image that sums to one around each centre, with a std of 3 pixels."""
    grid = torch.arange(points).double()
    weights = torch.exp(-0.5 * ((grid - centres.unsqueeze(2)) / 3) ** 2)  # (n, 2, points)
    weights = weights / weights.sum(dim=2, keepdim=True)
    return (weights[:, 0, :, None] * weights[:, 1, None, :]).sum(dim=0)


class CountingData(KeyedData):
    r"""Creates images of galaxies to learn counting from: batches of images `x`, `(B, 1, H, W)`,
    their numbers of galaxies `n`, `(B,)`, and `density`, `(B, 1, H, W)`, which sums to one around
    each galaxy.

    Nothing is stored: every image is simulated from its key on access, a million images in an
    epoch. Many images of training look like the images of a map that has not learnt to draw yet:
    blurred by up to 1.5 pixels, faded by up to a half, and with noise of a std up to 0.2. The
    images of validation and of test are clean.

    Arguments:
        lowest: The smallest number of galaxies.
        highest: The largest number of galaxies; all between are equally frequent.
        points: The number of grid points along each axis.
        sizes: The number of images of `val` and of `test`.
        spoilt: The share of training images that are blurred, faded and noisy.
        seed: The seed of the images.
        batch_size: The number of images in a batch, of each process.
        num_workers: The number of processes that simulate; with 0 this process simulates.

    Raises:
        InputError: If the numbers of galaxies make no range, if the points or sizes are not
            positive, or if the share is not in [0, 1].
    """

    def __init__(
        self,
        lowest: PositiveInt = 4,
        highest: Natural = 12,
        points: PositiveInt = 64,
        sizes: tuple[PositiveInt, PositiveInt] = (512, 2048),
        spoilt: Share = 0.5,
        seed: Seed = 0,
        batch_size: PositiveInt = 16,
        num_workers: Natural = 0,
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        check_range(self, f"[{lowest}, inf)", highest=highest)
        self.numbers, self.points = (lowest, highest), points
        self.skies = {
            "train": Skies(self, "train", EPOCH, spoilt),
            "val": Skies(self, "val", sizes[0], 0.0),
            "test": Skies(self, "test", sizes[1], 0.0),
        }

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.skies["train"])

    def val_dataloader(self) -> DataLoader:
        return self.in_order(self.skies["val"])

    def test_dataloader(self) -> DataLoader:
        return self.in_order(self.skies["test"])
