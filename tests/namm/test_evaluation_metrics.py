"""Metrics: two-point statistics, MMD and spread, for fields of which they are known."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from constraints import noise
from namm import MMD, ConstraintDistance, Mean, Spectrum, Spread
from namm.evaluation import metrics
from namm.evaluation.results import interval


def measure(real: Tensor, fake: Tensor) -> tuple[float, float]:
    metric = Spectrum()
    for part in real.split(7):
        metric.update(part, real=True)
    for part in fake.split(5):
        metric.update(part, real=False)
    found = metric.compute()
    return found["mean"].item(), found["ci95"].item()


def fields(n: int, *shape: int, key: int = 0) -> Tensor:
    return noise([(key, i) for i in range(n)], shape)


def shifted(x: Tensor) -> Tensor:
    """The field moved along both axes, by as many points for each as it has seen samples."""

    moved = [a.roll((k, 2 * k), dims=(-2, -1)) for k, a in enumerate(x)]
    return torch.stack(moved)


@pytest.mark.parametrize("shape", [(1, 32, 32), (16, 8, 8), (2, 12, 40), (1, 33, 9), (2, 3, 8, 8)])
def test_spectrum_of_scaled_fields_differs_by_twice_the_log(shape: tuple[int, ...]) -> None:
    x = fields(20, *shape)
    value, half = measure(x, 3 * x)

    # float32 fields
    assert value == pytest.approx(2 * math.log(3), rel=1e-5) and half >= 0
    assert measure(x, x / 3)[0] == pytest.approx(2 * math.log(3), rel=1e-5)


def test_spectrum_does_not_see_shifts_nor_means() -> None:
    x = fields(20, 2, 16, 24)

    assert measure(x, x)[0] == 0
    # the sign of a field is not in its power, nor is its place
    assert measure(x, 5 - shifted(x))[0] < 1e-5


def test_spectrum_of_other_fields_of_the_same_law_is_small() -> None:
    value, half = measure(fields(128, 1, 16, 16), fields(128, 1, 16, 16, key=1))

    # a shell has 8 modes or more, which are equal in pairs, so that the difference of two logs of
    # means over 128 fields has a standard deviation of at most 1 / 16
    assert 0 < value < 1 / 16 and 0 < half < 1 / 16


def test_spectrum_counts_shells_alike() -> None:
    x = fields(10, 1, 12, 24).double()
    v, u = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (12, 24))
    cycles = 12 * torch.hypot(v[:, None], u[None, :])
    for k in (1, 3, 6):
        # half a cycle of the longer axis is in the first of the 6 shells, the corners in the last
        ring = (cycles + 0.5 - 1e-6).floor().clamp(1, 6)
        shell = (ring == k) & (cycles > 0)
        louder = torch.fft.ifft2(torch.fft.fft2(x) * torch.where(shell, 2, 1)).real

        assert measure(x, louder)[0] == pytest.approx(math.log(4) / 6, rel=1e-6)


def test_spectrum_shows_what_is_smoothed() -> None:
    x = fields(40, 1, 32, 32)
    values = []
    for weight in (0.0, 0.05, 0.2):
        neighbours = sum(x.roll(k, dims=d) for k in (-1, 1) for d in (-2, -1)) / 4
        values.append(measure(x, (1 - weight) * x + weight * neighbours)[0])

    assert values == sorted(values) and values[0] == 0 and values[1] > 0.05


def test_spectrum_leaves_out_what_is_below_notice() -> None:
    x = fields(20, 1, 16, 16)
    spectrum = torch.fft.rfft2(x)
    spectrum[..., 4:, :] = 0  # no shell but the first is whole, and the last is empty
    spectrum[..., 4:] = 0
    smooth = torch.fft.irfft2(spectrum, s=x.shape[-2:])
    faint = 1e-4 * fields(20, 1, 16, 16, key=1)

    # the shells that were empty are below 1e-6 of the strongest, and so they stay
    assert measure(smooth, smooth + faint)[0] < 0.01
    assert measure(smooth, smooth + 1000 * faint)[0] > 0.5


def test_interval_of_the_spectrum_is_the_scatter_of_repeats() -> None:
    found = [
        measure(fields(32, 1, 8, 8, key=2 * k), 0.8 * fields(32, 1, 8, 8, key=2 * k + 1))
        for k in range(200)
    ]
    values, halves = torch.tensor(found).T

    # the scatter of 200 repeats is known to 5 %
    assert halves.mean().item() / 1.96 == pytest.approx(values.std().item(), rel=0.2)


def test_spectrum_suits_fields_of_two_long_axes() -> None:
    assert Spectrum.suits(torch.empty(1, 16, 8, 64))
    for shape in [(1, 1, 2), (1, 4, 64), (1, 1, 64, 7), (1, 1, 2, 64)]:
        assert not Spectrum.suits(torch.empty(shape))


# metrics
def brute_mmd(x: Tensor, y: Tensor) -> float:
    distances = [float((a - b).norm()) for i, a in enumerate(x) for b in x[:i]]
    median = sorted(distances)[(len(distances) - 1) // 2]

    def kernel(a: Tensor, b: Tensor) -> float:
        square = float((a - b).square().sum())
        return sum(math.exp(-square / (2 * (w * median) ** 2)) for w in (0.5, 1, 2)) / 3

    def mean(values: Iterator[float]) -> float:
        listed = list(values)
        return sum(listed) / len(listed)

    xx = mean(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
    yy = mean(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    return xx + yy - 2 * mean(kernel(a, b) for a in x for b in y)


def computed(metric: Any, real: Tensor, fake: Tensor) -> tuple[float, float]:
    metric.update(real, real=True)
    for part in fake.split(5):
        metric.update(part, real=False)
    found = metric.compute()
    return found["mean"].item(), found["ci95"].item()


def test_mmd_is_the_sum_over_pairs() -> None:
    x, y = torch.randn(9, 1, 3, 2), 0.5 + torch.randn(13, 1, 3, 2)
    value, _ = computed(MMD(), x, y)

    assert value == pytest.approx(brute_mmd(x.flatten(1).double(), y.flatten(1).double()))


def full_mmd(x: Tensor, y: Tensor, near: Tensor) -> tuple[float, float]:
    """The discrepancy and its interval from the matrix of all pairs, with the median of `near`."""

    n, joint = len(x), torch.cat([x, y]).flatten(1).double()
    squares = torch.cdist(joint, joint).square_()
    few = torch.cdist(near.flatten(1).double(), near.flatten(1).double()).square()
    median = few[~torch.eye(len(few), dtype=torch.bool)].median()
    kernel = sum(torch.exp(squares / (-2 * w**2 * median)) for w in (0.5, 1.0, 2.0)) / 3
    kernel.fill_diagonal_(0)
    r, f, c = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]

    def estimate(r: Tensor, f: Tensor, c: Tensor, n: int, m: int) -> Tensor:
        return r / (n * (n - 1)) + f / (m * (m - 1)) - 2 * c / (n * m)

    sums, m = (r.sum(), f.sum(), c.sum()), len(y)
    less_x = estimate(sums[0] - 2 * r.sum(1), sums[1], sums[2] - c.sum(1), n - 1, m)
    less_y = estimate(sums[0], sums[1] - 2 * f.sum(1), sums[2] - c.sum(0), n, m - 1)
    spread = [(len(v) - 1) / len(v) * (v - v.mean()).square().sum() for v in (less_x, less_y)]
    return float(estimate(*sums, n, m)), 1.96 * math.sqrt(float(sum(spread)))


@pytest.mark.parametrize(("n", "m"), [(30, 700), (1500, 1100), (2000, 2000), (4000, 600)])
def test_mmd_in_tiles_is_the_mmd_of_all_pairs(n: int, m: int) -> None:
    x, y = torch.randn(n, 1, 4, 3), 0.05 + torch.randn(m, 1, 4, 3)
    metric = MMD()
    metric.update(x, real=True)
    metric.update(y, real=False)
    found = metric.compute()

    near = metrics._draw(x.flatten(1), 2000)
    assert len(near) == min(n, 2000) and set(found) == {"mean", "ci95"}
    expected = full_mmd(x, y, near)
    assert abs(expected[0]) < 0.01  # so that float32 rounds by less than the tolerance
    assert (found["mean"].item(), found["ci95"].item()) == pytest.approx(expected, abs=1e-9)


def test_large_sets_are_compared_by_fields_that_a_seed_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "MOST", 300)
    monkeypatch.setattr(metrics, "BANDWIDTH", 50)
    x, y = torch.randn(900, 1, 5), 0.5 + torch.randn(700, 1, 5)
    all_pairs, half = full_mmd(x, y, x)
    found = []
    for _ in range(3):
        metric = MMD()
        for part in x[torch.randperm(900)].split(64):  # in the order of other processes
            metric.update(part, real=True)
        metric.update(y[torch.randperm(700)], real=False)
        found.append(metric.compute())

    for value in found:
        assert value["used"].tolist() == [300, 300]
        assert value["mean"] == pytest.approx(found[0]["mean"].item(), rel=1e-6)
        assert value["ci95"] == pytest.approx(found[0]["ci95"].item(), rel=1e-6)
    # an interval of fewer fields is wider, and holds the discrepancy of all fields
    assert found[0]["ci95"] > half
    assert abs(found[0]["mean"] - all_pairs) < 1.5 * found[0]["ci95"]
    drawn = metrics._draw(x.flatten(1), 300)
    assert len(drawn.unique(dim=0)) == 300 and len(drawn) == 300


def test_row_names_the_fields_that_are_used() -> None:
    computed = {"mean": torch.tensor(1.0), "ci95": torch.tensor(0.5)}
    assert interval(computed) == {"value": 1.0, "ci95": [0.5, 1.5]}
    assert interval(computed | {"used": torch.tensor([4000, 128])})["used"] == [4000, 128]


def test_jackknife_of_mmd_leaves_out_each_field_in_turn() -> None:
    # with kernels so wide apart that the median does not change with a field left out
    x, y = torch.randn(12, 2), 1 + torch.randn(8, 2)
    metric = MMD()
    _, half = computed(metric, x[:, None], y[:, None])
    joint = torch.cat([x, y]).double()
    squares = torch.cdist(joint, joint).square()
    real = squares[:12, :12][~torch.eye(12, dtype=torch.bool)].median()
    kernel = sum(torch.exp(-squares / (2 * w**2 * real)) for w in (0.5, 1, 2)) / 3

    def estimate(rows: list[int]) -> float:
        a = [i for i in rows if i < 12]
        b = [i for i in rows if i >= 12]
        aa, bb, ab = kernel[a][:, a], kernel[b][:, b], kernel[a][:, b]
        n, m = len(a), len(b)
        inner = (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1))
        return float(inner - 2 * ab.mean())

    variance = 0.0
    for group in (range(12), range(12, 20)):
        left = torch.tensor(
            [estimate([i for i in range(20) if i != k]) for k in group], dtype=torch.float64
        )
        variance += (len(group) - 1) / len(group) * (left - left.mean()).square().sum().item()

    assert half == pytest.approx(1.96 * math.sqrt(variance), rel=1e-5)


def test_mmd_is_unbiased_where_samples_are_data() -> None:
    values = []
    for k in range(200):
        x, y = noise([(k, side) for side in ("x", "y")], (20, 1, 6)).unbind()
        values.append(computed(MMD(), x, y)[0])
    found = torch.tensor(values)

    # three standard errors of 200 repeats; the biased estimate would be off by 1 / 20
    assert found.mean().abs() < 3 * found.std() / math.sqrt(200)
    assert (found < 0).any()


def repeats(metric: Callable[[], Any], shift: float, scale: float) -> tuple[float, float]:
    """The std of the estimates of 200 repeats, and the one that the intervals claim."""

    found = []
    for k in range(200):
        x, y = noise([(k, side) for side in ("x", "y")], (32, 1, 4)).unbind()
        found.append(computed(metric(), x, shift + scale * y))
    values, halves = torch.tensor(found).T
    return values.std().item(), halves.mean().item() / 1.96


@pytest.mark.parametrize(("metric", "shift", "scale"), [(MMD, 0.8, 1.0), (Spread, 0.0, 0.7)])
def test_interval_is_the_scatter_of_repeats(metric: Any, shift: float, scale: float) -> None:
    scatter, claimed = repeats(metric, shift, scale)

    # the scatter of 200 repeats is known to 5 %
    assert claimed == pytest.approx(scatter, rel=0.2)


def test_mmd_grows_with_the_difference() -> None:
    x, y = noise([(0, side) for side in ("x", "y")], (40, 1, 8)).unbind()
    values = [computed(MMD(), x, y + shift)[0] for shift in (0.0, 0.5, 1.0, 2.0)]

    assert values == sorted(values) and values[1] > 0


def test_spread_is_the_ratio_of_deviations() -> None:
    x = torch.randn(30, 1, 4, 4)
    value, half = computed(Spread(), x, 0.5 * x[:20] + 3)
    expected = 0.5 * x[:20].std(dim=0).mean() / x.std(dim=0).mean()
    left = torch.stack([torch.cat([x[:k], x[k + 1 :]]).std(dim=0).mean() for k in range(30)]).log()
    fake = x[:20]
    less = torch.stack(
        [torch.cat([fake[:k], fake[k + 1 :]]).std(dim=0).mean() for k in range(20)]
    ).log()
    variance = sum(
        (len(v) - 1) / len(v) * (v.double() - v.double().mean()).square().sum()
        for v in (left, less)
    )

    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert half == pytest.approx(1.96 * value * variance.sqrt().item(), rel=1e-3)
    assert computed(Spread(), x, x)[0] == pytest.approx(1)


def test_spread_of_one_field_repeated_is_zero() -> None:
    value, half = computed(Spread(), torch.randn(9, 1, 4), torch.ones(6, 1, 4))

    assert value == 0 and not math.isnan(half)


@pytest.mark.parametrize("metric", [Mean, ConstraintDistance])
def test_mean_and_its_interval(metric: type[Mean]) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    found = metric()
    found.update(values[:3])
    found.update(values[3:])
    computed = found.compute()

    assert computed["mean"] == 3
    assert computed["ci95"].item() == pytest.approx(1.96 * math.sqrt(14 / 3) / 2)
    alone = metric()
    alone.update(values[:1])
    assert alone.compute() == {"mean": torch.tensor(1.0), "ci95": torch.tensor(0.0)}
