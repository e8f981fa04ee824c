"""The guard of two-point statistics: what it is for fields whose spectra are known."""

import math

import pytest
import torch
from torch import Tensor

from constraints import noise
from namm import Spectrum


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
