r"""Metrics of generated and restored fields, with 95 % confidence intervals."""

__all__ = ["MMD", "ConstraintDistance", "Mean", "Spread"]

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
        spread = values.std() if len(values) > 1 else values.new_zeros(())
        return {"mean": values.mean(), "ci95": 1.96 * spread / math.sqrt(len(values))}


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
        variance = torch.stack(
            [
                (k - 1) / k * (less - less.mean()).square().sum()
                for k, less in ((n, less_r), (m, less_f))
            ]
        ).sum()
        mmd = estimate(r_sum, f_sum, c_sum, n, m)
        return {"mean": mmd.float(), "ci95": 1.96 * variance.sqrt().float()}


class Spread(_TwoSamples):
    r"""Creates the ratio of the mean pointwise standard deviation of samples to that of data: 1
    for samples as diverse as the data. `compute` returns `mean` and `ci95`, by the jackknife."""

    def compute(self) -> dict[str, Tensor]:
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)
        ratio = _deviation(fake) / _deviation(real)
        if ratio == 0:  # one field repeated, whichever is left out
            return {"mean": ratio.float(), "ci95": ratio.float()}
        variance = ratio.new_zeros(())
        for x in (real, fake):
            less = torch.log(_leave_one_out(x))
            variance += (len(x) - 1) / len(x) * (less - less.mean()).square().sum()
        return {"mean": ratio.float(), "ci95": (1.96 * ratio * variance.sqrt()).float()}


def _deviation(x: Tensor) -> Tensor:
    return x.std(dim=0).mean()


def _leave_one_out(x: Tensor) -> Tensor:
    r"""Returns the mean pointwise deviation without each sample in turn, with shape `(N,)`."""
    n = len(x)
    centred = x - x.mean(dim=0)
    # removing a sample at distance d from the mean takes n / (n - 1) d² from the sum of squares
    sums = centred.square().sum(dim=0) - n / (n - 1) * centred.square()
    return (sums.clamp(min=0) / (n - 2)).sqrt().mean(dim=1)
