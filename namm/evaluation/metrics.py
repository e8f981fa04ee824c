r"""Metrics of generated and restored fields, with 95 % confidence intervals."""

__all__ = ["MMD", "ConstraintDistance", "Mean", "Spectrum", "Spread"]

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


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
        (self.real if real else self.fake).append(x.detach().flatten(1).double())


class MMD(_TwoSamples):
    r"""Creates the unbiased squared maximum mean discrepancy between samples and data, with a mean
    of Gaussian kernels at 1/2, 1 and 2 times the median distance of the data. `compute` returns
    `mean` and `ci95`, by the jackknife over the fields of both sets.

    References:
        A Kernel Two-Sample Test (Gretton et al., 2012)
        https://jmlr.org/papers/v13/gretton12a.html
    """

    def compute(self) -> dict[str, Tensor]:
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)
        n, m = len(real), len(fake)
        squared = torch.cdist(joint := torch.cat([real, fake]), joint).square()
        median = squared[:n, :n][~torch.eye(n, dtype=torch.bool, device=squared.device)].median()
        widths = torch.tensor([0.5, 1.0, 2.0]).to(squared).reshape(3, 1, 1)
        kernel = torch.exp(-squared / (2 * widths**2 * median)).mean(dim=0)
        rr, ff, rf = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
        # sums over distinct pairs; leaving one field out removes its row and its column
        r_rows, f_rows = rr.sum(1) - rr.diagonal(), ff.sum(1) - ff.diagonal()
        r_sum, f_sum, c_sum = r_rows.sum(), f_rows.sum(), rf.sum()

        def estimate(r: Tensor, f: Tensor, c: Tensor, n: int, m: int) -> Tensor:
            return r / (n * (n - 1)) + f / (m * (m - 1)) - 2 * c / (n * m)

        less_r = estimate(r_sum - 2 * r_rows, f_sum, c_sum - rf.sum(1), n - 1, m)
        less_f = estimate(r_sum, f_sum - 2 * f_rows, c_sum - rf.sum(0), n, m - 1)
        variance = _jackknife(less_r) + _jackknife(less_f)
        mmd = estimate(r_sum, f_sum, c_sum, n, m)
        return {"mean": mmd.float(), "ci95": 1.96 * variance.sqrt().float()}


class Spread(_TwoSamples):
    r"""Creates the mean pointwise standard deviation of samples divided by the deviation of data:
    1 for samples as diverse as the data. `compute` returns `mean` and `ci95`, by the jackknife."""

    def compute(self) -> dict[str, Tensor]:
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)
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
