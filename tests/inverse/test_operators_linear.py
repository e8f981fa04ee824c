"""Linear operators and their decompositions against dense matrices."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from inverse import Blur, Downsample, Fourier, LinearOperator, Mask, RandomProjection, Select
from tests.inverse.draws import close, draw

Case = tuple[LinearOperator, tuple[int, ...]]


# each operator, and the shape of one field
CASES: dict[str, Callable[[], Case]] = {
    "select": lambda: (Select(-1, [4, 0, 1], 6), (2, 5, 6)),
    "select channel": lambda: (Select(1, [1], 2), (2, 5, 6)),
    "mask seen": lambda: (Mask([5, 6], [1, 2, 3, 4]), (2, 5, 6)),
    "mask hidden": lambda: (Mask([5, 6], [0, 1, 2, 3], hidden=True), (2, 5, 6)),
    "box": lambda: (Downsample(2), (2, 8, 6)),
    "box of one axis": lambda: (Downsample(3, [-1]), (1, 4, 9)),
    "box in time": lambda: (Downsample(2, [-3, -1]), (2, 4, 3, 6)),
    "box of a line": lambda: (Downsample(4, [-1]), (2, 12)),
    "box of one": lambda: (Downsample(1), (1, 3, 5)),
    "periodic blur": lambda: (Blur(1.0, [8, 6]), (2, 8, 6)),
    "mirrored blur": lambda: (Blur(1.3, [7, 10], "reflect", 1e-2), (2, 7, 10)),
    "blur in the dark": lambda: (Blur(0.8, [9, 5], "zero"), (3, 9, 5)),
    "wide blur": lambda: (Blur(3.0, [6, 8]), (1, 6, 8)),
    "blur of a line": lambda: (Blur(1.0, [1, 12], "reflect"), (2, 1, 12)),
    "projection": lambda: (RandomProjection(7, [2, 4, 5]), (2, 4, 5)),
    "projection of channels": lambda: (RandomProjection(7, [4, 5], seed=3), (2, 4, 5)),
    "tall projection": lambda: (RandomProjection(30, [3, 6]), (2, 3, 6)),
    "projection of a line": lambda: (RandomProjection(3, [9]), (2, 9)),
    "Fourier": lambda: (Fourier([8, 6], 0.3), (2, 8, 6)),
    "Fourier of odd sides": lambda: (Fourier([5, 9], 0.5, 1), (2, 5, 9)),
    "lowest Fourier": lambda: (Fourier([4, 10], 0.0, 1), (1, 4, 10)),
    "all of Fourier": lambda: (Fourier([6, 5], 1.0), (2, 6, 5)),
}


# relative to fields of unit scale: rounding, which a gain of 1 / cutoff may amplify nowhere here
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def dense(map_: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear map of arrays of this shape."""

    n = math.prod(shape)
    return map_(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).reshape(n, -1).T


# facts of every linear operator
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_pseudo_inverse_and_projector(name: str, dtype: torch.dtype) -> None:
    operator, shape = CASES[name]()
    tolerance = TOLERANCE[dtype]
    x, other = draw(3, *shape, dtype=dtype), draw(3, *shape, dtype=dtype, seed=1)
    m = operator(x)
    w = draw(*m.shape, dtype=dtype, seed=2)
    assert m.dtype == operator.adjoint(w).dtype == operator.pinv(w).dtype == dtype
    assert operator.pinv(w).shape == operator.visible(x).shape == x.shape

    inner = [(a * b).flatten(1).sum(1) for a, b in ((m, w), (x, operator.adjoint(w)))]
    close(inner[0], inner[1], 10 * tolerance)
    close(operator(operator.pinv(m)), m, tolerance)
    p = operator.visible(x)
    close(operator.visible(p), p, tolerance)
    close(operator(p), m, tolerance)
    inner = [(a * b).flatten(1).sum(1) for a, b in ((p, other), (x, operator.visible(other)))]
    close(inner[0], inner[1], 10 * tolerance)


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_dense_matrix(name: str) -> None:
    operator, shape = CASES[name]()
    a = dense(operator, shape)
    m_shape = tuple(operator(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])

    close(dense(operator.adjoint, m_shape), a.T, 1e-12)
    plus = torch.linalg.pinv(a, rtol=1e-9)
    close(dense(operator.pinv, m_shape), plus, 1e-10 * float(plus.abs().max()))
    close(dense(operator.visible, shape), plus @ a, 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_decomposition(name: str) -> None:
    operator, shape = CASES[name]()
    svd = operator.svd()
    assert svd is not None
    x = draw(2, *shape)
    z, m = svd.vt(x), operator(x)
    z_shape, m_shape = tuple(z.shape[1:]), tuple(m.shape[1:])
    v, u = dense(svd.v, z_shape), dense(svd.u, z_shape)
    values = svd.values.double().expand(z_shape).flatten()
    identity = torch.eye(len(values), dtype=torch.float64)

    assert (svd.values > 0).all()
    close(v.T @ v, identity, 1e-10)
    close(u.T @ u, identity, 1e-10)
    close(dense(svd.vt, shape), v.T, 1e-10)
    close(dense(svd.ut, m_shape), u.T, 1e-10)
    close(u @ values.diag() @ v.T, dense(operator, shape), 1e-10)
    assert svd.diagonal == (z_shape == m_shape and torch.equal(u, identity))
    # the published deblurring repeats the values block by block where the vectors interleave them
    found = torch.linalg.svdvals(dense(operator, shape))[: len(values)]
    close(values.sort(descending=True).values, found, 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_first_guess_leaves_out_what_is_mostly_noise(name: str) -> None:
    operator, shape = CASES[name]()
    operator.std.fill_(0.3)
    matrix = dense(operator, shape)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    told = torch.where(s >= 0.3 / 0.5, 1 / s, 0.0)  # no singular value is 0.6 here
    m = draw(3, *operator(torch.zeros(1, *shape).double()).shape[1:])
    expected = m.flatten(1) @ u * told @ vt
    close(operator.guess(m, 0.5).flatten(1), expected, 1e-10)

    operator.std.zero_()
    close(operator.guess(m, 0.5), operator.pinv(m), 1e-10)


def test_first_guess_knows_the_noise_of_each_channel() -> None:
    m, std = draw(3, 2, 5, 2), torch.tensor([0.1, 2.0])[:, None, None]
    guess = Select(-1, [4, 0], 6, std=std).guess(m, 1.0)
    close(guess[:, 0, :, [4, 0]], m[:, 0], 0)
    assert not guess[:, 1].any()
    # the directions of a blur may hold the noise of all channels
    m = draw(3, 2, 8, 6)
    std = torch.tensor([0.1, 0.3])[:, None, None]
    close(Blur(1.0, [8, 6], std=std).guess(m, 1.0), Blur(1.0, [8, 6], std=0.3).guess(m, 1.0), 0)


@pytest.mark.parametrize("name", CASES)
def test_channels_and_samples_are_independent(name: str) -> None:
    operator, shape = CASES[name]()
    x = draw(3, *shape)
    m = operator(x)
    close(operator(x[1:2]), m[1:2], 1e-12)
    if name in ("projection", "select channel"):
        return

    for c in range(shape[0]):
        close(operator(x[:, c : c + 1]), m[:, c : c + 1], 1e-12)
        close(operator.pinv(m[:, c : c + 1]), operator.pinv(m)[:, c : c + 1], 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_only_the_noise_is_saved(name: str) -> None:
    operator, shape = CASES[name]()
    x = draw(2, *shape)
    double, again = operator(x), operator.float()(x)

    assert set(operator.state_dict()) == {"std"}
    close(double, again, 1e-5)


def test_gradient_of_the_misfit_is_the_adjoint() -> None:
    for name, build in CASES.items():
        operator, shape = build()
        x = draw(2, *shape).requires_grad_()
        m = operator(x)
        (gradient,) = torch.autograd.grad(0.5 * m.square().sum(), x)
        close(gradient, operator.adjoint(m.detach()), 1e-10), name


def test_downsample_is_average_pooling() -> None:
    x = draw(2, 3, 8, 12)
    close(Downsample(4)(x), F.avg_pool2d(x, 4), 1e-12)
    close(Downsample(3, [-1])(x), F.avg_pool2d(x, (1, 3)), 1e-12)
    close(Downsample(2, [-2])(x), F.avg_pool2d(x, (2, 1)), 1e-12)
    close(
        Downsample(2, [-1, -2, -3])(draw(1, 2, 4, 6, 8)),
        F.avg_pool3d(draw(1, 2, 4, 6, 8), 2),
        1e-12,
    )
    blocks = Downsample(4).pinv(F.avg_pool2d(x, 4))
    close(blocks, F.interpolate(F.avg_pool2d(x, 4), scale_factor=4), 1e-12)


def convolved(x: Tensor, sigma: float, boundary: str) -> Tensor:
    radius = int(4 * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    mode = {"zero": "constant"}.get(boundary, boundary)
    x = F.pad(x, [radius] * 4, mode=mode)
    return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


@pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
@pytest.mark.parametrize("sigma", [1.0, 1.5])
def test_blur_is_a_convolution_up_to_its_cutoff(boundary: Any, sigma: float) -> None:
    x = draw(2, 2, 12, 9)
    expected = convolved(x, sigma, boundary)
    # a cutoff at the level of rounding removes nothing but that
    close(Blur(sigma, [12, 9], boundary, cutoff=1e-15)(x), expected, 1e-12)

    blur = Blur(sigma, [12, 9], boundary, cutoff=0.05)
    error = (blur(x) - expected).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    largest = float(torch.linalg.svdvals(dense(blur, (1, 12, 9)))[0])
    assert (error > 1e-3).all() and (error < 0.05 * largest).all()


@pytest.mark.parametrize(
    ("boundary", "mode"), [("circular", "wrap"), ("reflect", "mirror"), ("zero", "constant")]
)
@pytest.mark.parametrize(("sigma", "n"), [(0.1, 5), (1.0, 8), (2.0, 6), (3.0, 1), (3.0, 2)])
def test_blur_may_be_wider_than_the_field(boundary: Any, mode: str, sigma: float, n: int) -> None:
    x = draw(1, 2, n, 7)
    expected = x.numpy()
    for axis in (-1, -2):
        expected = gaussian_filter1d(expected, sigma, axis, mode=mode)
    found = Blur(sigma, [n, 7], boundary, cutoff=1e-15)(x)
    close(found, torch.from_numpy(np.ascontiguousarray(expected)), 1e-12)


def test_blur_keeps_constants_and_damps_waves() -> None:
    blur = Blur(1.5, [16, 32])
    wave = torch.cos(2 * math.pi * torch.arange(32).double() / 8).expand(1, 1, 16, 32)
    close(blur(torch.ones_like(wave)), torch.ones_like(wave), 1e-12)
    # the transform of the cut kernel differs from that of the whole by the mass beyond 4 sigma
    close(blur(wave), math.exp(-0.5 * (1.5 * 2 * math.pi / 8) ** 2) * wave, 1e-4)


def test_projection_is_keyed_by_its_seed() -> None:
    shape = (1, 20, 30)
    one, same, other = (dense(RandomProjection(40, [20, 30], k), shape) for k in (0, 0, 1))

    assert torch.equal(one, same) and not torch.allclose(one, other)
    # 24000 entries: the std is known to 0.5 %
    assert float(one.std()) == pytest.approx(600**-0.5, rel=0.03)
    assert len(RandomProjection(30, [2, 3]).svd().values) == 6


@pytest.mark.parametrize("size", [(8, 6), (5, 9), (4, 4), (1, 6), (2, 2)])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_rows_of_fourier_are_orthonormal(size: tuple[int, int], fraction: float) -> None:
    a = dense(Fourier([*size], fraction), (1, *size))
    close(a @ a.T, torch.eye(len(a), dtype=torch.float64), 1e-12)
    if fraction == 1:
        assert len(a) == math.prod(size)


def test_fourier_measures_what_it_says() -> None:
    h, w, low = 8, 12, 2
    i, j = torch.meshgrid(*map(torch.arange, (h, w)), indexing="ij")
    radius = torch.hypot(torch.minimum(i, h - i).double(), torch.minimum(j, w - j).double())
    x = draw(1, 1, h, w)
    spectrum = torch.fft.fft2(x, norm="ortho")

    # the lowest frequencies alone: an ideal low-pass filter
    lowest = Fourier([h, w], 0.0, low)
    smooth = torch.fft.ifft2(torch.where(radius <= low, spectrum, 0), norm="ortho").real
    close(lowest.visible(x), smooth, 1e-12)
    assert len(lowest(x)[0, 0]) == int((radius <= low).sum())

    # some more: whole coefficients, the lowest among them, with the energy of the measurement
    more = Fourier([h, w], 0.5, low, seed=1)
    found = torch.fft.fft2(more.visible(x), norm="ortho")[0, 0]
    kept = found.abs() > 1e-9
    assert kept[radius <= low].all()
    close(found[kept], spectrum[0, 0][kept], 1e-12)
    assert float(more(x).square().sum()) == pytest.approx(float(found.abs().square().sum()))
    # 4 of 96 frequencies are their own opposites: 50 pairs, of which 25 are kept
    assert len(more.index) == 25 and more.pairs >= 21
    assert not torch.equal(more.index, Fourier([h, w], 0.5, low, seed=2).index)
    assert torch.equal(more.index, Fourier([h, w], 0.5, low, seed=1).index)
