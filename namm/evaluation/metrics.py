r"""Metrics of generated and restored fields, with 95 % confidence intervals."""

__all__ = ["MMD", "ConstraintDistance", "Mean", "Spectrum", "Spread"]

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from constraints import generator

MOST = 4_000  # fields of each set that the MMD compares
BANDWIDTH = 2_000  # fields of the data whose distances are sorted
TILE = 512  # fields of each set whose distances are in memory together
WIDTHS = (0.5, 1.0, 2.0)  # of the kernels, in median distances


class Mean(Metric):
    r"""Creates the mean over samples of a number per sample. `compute` returns `mean` and `ci95`,
    the half-width of the normal interval (0 for a single sample)."""

    full_state_update = False
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, values: Tensor) -> None:
        r"""Adds samples.

        Arguments:
            values: The numbers, with shape `(B,)`.
        """
        self.values.append(values.detach().float())

    def compute(self) -> dict[str, Tensor]:
        values = dim_zero_cat(self.values)
        std = values.std() if len(values) > 1 else values.new_zeros(())
        return {"mean": values.mean(), "ci95": 1.96 * std / math.sqrt(len(values))}


class ConstraintDistance(Mean):
    r"""Creates the mean distance to a constraint set, from the distances of samples."""


class _TwoSamples(Metric):
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("fake", default=[], dist_reduce_fx="cat")

    def update(self, x: Tensor, real: bool) -> None:
        r"""Adds fields.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
            real: Whether they are data, or samples.
        """
        (self.real if real else self.fake).append(x.detach().flatten(1))


class MMD(_TwoSamples):
    r"""Creates the unbiased squared maximum mean discrepancy between samples and data, with a mean
    of Gaussian kernels at 1/2, 1 and 2 times the median distance of the data. `compute` returns
    `mean` and `ci95`, by the jackknife over the fields of both sets.

    The memory is linear in the number of fields. The median is the median of 2,000 fields at most,
    and 4,000 fields of each set at most are compared. A seed draws them from the fields of all
    processes. Where it leaves fields out, `compute` also returns `used`, the number of data and
    the number of samples compared.

    References:
        A Kernel Two-Sample Test (Gretton et al., 2012)
        https://jmlr.org/papers/v13/gretton12a.html
    """

    def compute(self) -> dict[str, Tensor]:
        sets = dim_zero_cat(self.real), dim_zero_cat(self.fake)
        real, fake = (_draw(x, MOST).double() for x in sets)
        n, m = len(real), len(fake)
        near = torch.cdist(few := _draw(real, BANDWIDTH), few).square()
        median = near[~torch.eye(len(few), dtype=torch.bool, device=near.device)].median()
        # sums over distinct pairs; leaving one field out removes its row and its column
        r_rows, _ = _kernel_sums(real, real, median)
        f_rows, _ = _kernel_sums(fake, fake, median)
        c_rows, c_columns = _kernel_sums(real, fake, median)
        r_sum, f_sum, c_sum = r_rows.sum(), f_rows.sum(), c_rows.sum()

        def estimate(r: Tensor, f: Tensor, c: Tensor, n: int, m: int) -> Tensor:
            return r / (n * (n - 1)) + f / (m * (m - 1)) - 2 * c / (n * m)

        less_r = estimate(r_sum - 2 * r_rows, f_sum, c_sum - c_rows, n - 1, m)
        less_f = estimate(r_sum, f_sum - 2 * f_rows, c_sum - c_columns, n, m - 1)
        variance = _jackknife(less_r) + _jackknife(less_f)
        mmd = estimate(r_sum, f_sum, c_sum, n, m)
        found = {"mean": mmd.float(), "ci95": 1.96 * variance.sqrt().float()}
        part = (n, m) != tuple(map(len, sets))
        return found | ({"used": torch.tensor([n, m])} if part else {})


class Spread(_TwoSamples):
    r"""Creates the mean pointwise standard deviation of samples divided by the deviation of data:
    1 for samples as diverse as the data. `compute` returns `mean` and `ci95`, by the jackknife."""

    def compute(self) -> dict[str, Tensor]:
        real, fake = dim_zero_cat(self.real).double(), dim_zero_cat(self.fake).double()
        ratio = _deviation(fake) / _deviation(real)
        if ratio == 0:  # one field repeated, whichever is left out
            return {"mean": ratio.float(), "ci95": ratio.float()}
        variance = _jackknife(_leave_one_out(real).log()) + _jackknife(_leave_one_out(fake).log())
        return {"mean": ratio.float(), "ci95": (1.96 * ratio * variance.sqrt()).float()}


class Spectrum(_TwoSamples):
    r"""Creates the mean absolute difference of the log power spectra of samples and of data: 0
    for the same two-point statistics, and 2 |log s| where samples are data times s. Between finite
    sets it is at least of the size of their scatter. `compute` returns `mean` and `ci95`, by the
    jackknife over the fields of both sets.

    The power :math:`|F x|^2` over the last two axes, of all frequencies but zero, is averaged over
    fields and over shells of the radius in cycles per point, as wide as one cycle of the shorter
    axis. What is within the first is with it, and the corners beyond the last whole ring are with
    that. All channels and shells count alike. Power below 1e-6 of that in the strongest shell of
    the data, as where these are band-limited, is below notice and counts as that.
    """

    shortest = 8  # four shells

    @classmethod
    def suits(cls, x: Tensor) -> bool:
        r"""Returns whether fields have two axes that are long enough for a spectrum, as paths and
        points do not.

        Arguments:
            x: The fields, with shape `(B, C, *S)`.
        """
        return x.ndim >= 4 and min(x.shape[-2:]) >= cls.shortest

    def update(self, x: Tensor, real: bool) -> None:
        r"""Adds fields.

        Arguments:
            x: The fields, with shape `(B, C, *S)`, the last two axes of at least 8 points.
            real: Whether they are data, or samples.
        """
        super().update(_power(x.detach().double()), real)

    def compute(self) -> dict[str, Tensor]:
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)

        def difference(r: Tensor, f: Tensor) -> Tensor:
            return (r.clamp(min=floor).log() - f.clamp(min=floor).log()).abs().mean(dim=-1)

        r, f = real.mean(dim=0), fake.mean(dim=0)
        floor = max(1e-6 * float(r.max()), torch.finfo(r.dtype).tiny)
        less_r, less_f = difference(_less_one(real), f), difference(r, _less_one(fake))
        variance = _jackknife(less_r) + _jackknife(less_f)
        return {"mean": difference(r, f).float(), "ci95": (1.96 * variance.sqrt()).float()}


def _draw(x: Tensor, most: int) -> Tensor:
    r"""Returns the fields `(N, D)`, or some of them where there are more than `most`. The draw
    does not depend on the order of the fields, which processes and batches decide."""
    if len(x) <= most:
        return x
    drawn = generator("draw", most)
    direction = torch.randn(x.shape[1], generator=drawn, dtype=torch.float64)
    order = (x.double() @ direction.to(x.device)).argsort()
    return x[order[torch.randperm(len(x), generator=drawn)[:most].to(x.device)]]


def _kernel_sums(x: Tensor, y: Tensor, median: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the sums of the kernel of two sets, `(N, D)` and `(M, D)`, over the second set,
    `(N,)`, and over the first set, `(M,)`, without the pairs of a field with itself."""
    rows, columns = x.new_zeros(len(x)), y.new_zeros(len(y))
    for i in range(0, len(x), TILE):
        for j in range(0, len(y), TILE):
            squared = torch.cdist(x[i : i + TILE], y[j : j + TILE]).square()
            parts = [torch.exp(-squared / (2 * width**2 * median)) for width in WIDTHS]
            kernel = torch.stack(parts).mean(dim=0)
            if x is y and i == j:
                kernel.fill_diagonal_(0)
            rows[i : i + TILE] += kernel.sum(dim=1)
            columns[j : j + TILE] += kernel.sum(dim=0)
    return rows, columns


def _power(x: Tensor) -> Tensor:
    r"""Returns the power of fields `(B, C, *S)` by channel and shell, with shape `(B, C, K)`."""
    height, width = x.shape[-2:]
    short = min(height, width)
    v, u = (torch.fft.fftfreq(n, device=x.device, dtype=x.dtype) for n in (height, width))
    radius = torch.hypot(v[:, None], u[None, :]).flatten()[1:]
    # a radius half-way between two shells is in the lower, however it is rounded
    shell = (short * radius - 1e-9).round().clamp(1, short // 2).long() - 1
    power = torch.fft.fft2(x).abs().square().flatten(-2).flatten(1, -2)[..., 1:]
    sums: Tensor = power.new_zeros(*power.shape[:-1], short // 2)
    return sums.index_add_(-1, shell, power) / torch.bincount(shell)


def _less_one(x: Tensor) -> Tensor:
    r"""Returns the mean without each sample in turn, with the shape `(N, D)` of `x`."""
    return (x.sum(dim=0) - x).clamp(min=0) / (len(x) - 1)


def _jackknife(less: Tensor) -> Tensor:
    r"""Returns the variance of an estimate from those without each sample in turn, `(N,)`."""
    return (len(less) - 1) / len(less) * (less - less.mean()).square().sum()


def _deviation(x: Tensor) -> Tensor:
    return x.std(dim=0).mean()


def _leave_one_out(x: Tensor) -> Tensor:
    r"""Returns the mean pointwise deviation without each sample in turn, with shape `(N,)`."""
    n = len(x)
    centred = x - x.mean(dim=0)
    # removing a sample at distance d from the mean takes n / (n - 1) d² from the sum of squares
    sums = centred.square().sum(dim=0) - n / (n - 1) * centred.square()
    return (sums.clamp(min=0) / (n - 2)).sqrt().mean(dim=1)
