"""Linear operators and their decompositions, noise of several stds, and operators that are not
linear."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentError
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from constraints import Burgers, Constraint, InputError
from inverse import (
    DPS,
    Blur,
    Downsample,
    Fourier,
    Inverse,
    Liftable,
    LinearOperator,
    Mask,
    Operator,
    Pullback,
    Quantise,
    RandomProjection,
    Residual,
    Select,
)
from mdm import DDIM
from namm.training.checkpoint import build_part
from problems import Affine, tiny_denoiser

Case = tuple[LinearOperator, tuple[int, ...]]

# what is built, and the shape of one field
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


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


def dense(map_: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear map of arrays of this shape."""

    n = math.prod(shape)
    return map_(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).reshape(n, -1).T


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


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
    assert operator.pinv(w).shape == operator.project(x).shape == x.shape

    inner = [(a * b).flatten(1).sum(1) for a, b in ((m, w), (x, operator.adjoint(w)))]
    close(inner[0], inner[1], 10 * tolerance)
    close(operator(operator.pinv(m)), m, tolerance)
    p = operator.project(x)
    close(operator.project(p), p, tolerance)
    close(operator(p), m, tolerance)
    inner = [(a * b).flatten(1).sum(1) for a, b in ((p, other), (x, operator.project(other)))]
    close(inner[0], inner[1], 10 * tolerance)


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_dense_matrix(name: str) -> None:
    operator, shape = CASES[name]()
    a = dense(operator, shape)
    m_shape = tuple(operator(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])

    close(dense(operator.adjoint, m_shape), a.T, 1e-12)
    plus = torch.linalg.pinv(a, rtol=1e-9)
    close(dense(operator.pinv, m_shape), plus, 1e-10 * float(plus.abs().max()))
    close(dense(operator.project, shape), plus @ a, 1e-10)


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
    close(operator.lift(m, 0.5).flatten(1), expected, 1e-10)

    operator.std.zero_()
    close(operator.lift(m, 0.5), operator.pinv(m), 1e-10)


def test_first_guess_knows_the_noise_of_each_channel() -> None:
    m = draw(3, 2, 5, 2)
    guess = Select(-1, [4, 0], 6, std=[0.1, 2.0]).lift(m, 1.0)
    close(guess[:, 0, :, [4, 0]], m[:, 0], 0)
    assert not guess[:, 1].any()
    # the directions of a blur may hold the noise of all channels
    m = draw(3, 2, 8, 6)
    close(
        Blur(1.0, [8, 6], std=[0.1, 0.3]).lift(m, 1.0), Blur(1.0, [8, 6], std=0.3).lift(m, 1.0), 0
    )


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


class Twice(LinearOperator):
    """An operator that knows no decomposition."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class TwiceAndBack(Twice):
    def adjoint(self, m: Tensor) -> Tensor:
        return 2 * m

    def pinv(self, m: Tensor) -> Tensor:
        return m / 2


def test_operator_without_decomposition() -> None:
    x = draw(2, 1, 3)
    operator = TwiceAndBack(0.1)

    assert operator.svd() is None and torch.equal(operator.project(x), x)
    for name in ("adjoint", "pinv"):
        with pytest.raises(NotImplementedError, match=f"Twice was asked for `{name}`: .* `svd`"):
            getattr(Twice(0.1), name)(x)


# each against its own definition


def test_mask_sees_a_rectangle_or_all_but_it() -> None:
    x = draw(2, 3, 5, 6)
    seen, hidden = (Mask([5, 6], [1, 2, 3, 4], hidden) for hidden in (False, True))

    assert torch.equal(seen(x), x[..., 1:4, 2:6].flatten(-2))
    assert torch.equal(seen.pinv(seen(x)) + hidden.pinv(hidden(x)), x)
    assert not hidden.pinv(hidden(x))[..., 1:4, 2:6].any()


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
    close(lowest.project(x), smooth, 1e-12)
    assert len(lowest(x)[0, 0]) == int((radius <= low).sum())

    # some more: whole coefficients, the lowest among them, with the energy of the measurement
    more = Fourier([h, w], 0.5, low, seed=1)
    found = torch.fft.fft2(more.project(x), norm="ortho")[0, 0]
    kept = found.abs() > 1e-9
    assert kept[radius <= low].all()
    close(found[kept], spectrum[0, 0][kept], 1e-12)
    assert float(more(x).square().sum()) == pytest.approx(float(found.abs().square().sum()))
    # 4 of 96 frequencies are their own opposites: 50 pairs, of which 25 are kept
    assert len(more.index) == 25 and more.pairs >= 21
    assert not torch.equal(more.index, Fourier([h, w], 0.5, low, seed=2).index)
    assert torch.equal(more.index, Fourier([h, w], 0.5, low, seed=1).index)


# noise


def spread(operator: Operator, *shape: int) -> Tensor:
    """The std of the noise at each position, over 4000 measurements."""

    return operator.measure(torch.zeros(4000, *shape), range(4000)).std(dim=0)


def test_noise_has_the_std_of_its_channel() -> None:
    # 4000 numbers: each std is known to 1.1 %, and few of the positions are 4 times that away
    for operator, shape in (
        (Downsample(2, std=[0.1, 2.0]), (2, 4, 4)),
        (Fourier([3, 4], 0.5, 1, std=[0.1, 2.0]), (2, 3, 4)),
        (RandomProjection(3, [3, 4], std=[0.1, 2.0]), (2, 3, 4)),
        (Quantise(0.5, std=[0.1, 2.0]), (2, 2, 2)),
    ):
        found = spread(operator, *shape)
        ratio = found.flatten(1) / torch.tensor([[0.1], [2.0]])
        assert ratio.sub(1).abs().max() < 0.05


def test_noise_has_the_std_of_its_point() -> None:
    std = 0.1 + torch.arange(6.0).reshape(1, 2, 3)
    operator = Select(-1, 3, 4, std=std)  # type: ignore[arg-type]
    assert (spread(operator, 2, 2, 4) / std).sub(1).abs().max() < 0.05
    pulled = Pullback(operator, Affine(2.0, 1.0, 0.5))
    assert torch.equal(pulled.std, operator.std)
    assert (spread(pulled, 2, 2, 4) / std).sub(1).abs().max() < 0.05


def test_noise_follows_the_precision_of_the_field() -> None:
    operator = Downsample(2, std=[0.1, 2.0]).double()

    assert operator.std.shape == (2, 1, 1) and operator.std.dtype == torch.float64
    assert operator.measure(torch.zeros(1, 2, 4, 4), [0]).dtype == torch.float32


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf"), [0.1, -2.0], [math.nan]])
def test_noise_of_no_meaning_is_refused(std: Any) -> None:
    with pytest.raises(ValueError, match="Downsample expects .* finite std .* not negative, got"):
        Downsample(2, std=std)


def test_noise_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(3, 1, 2, 2\), got one of shape \(2, 1, 1\)"):
        Downsample(2, std=[0.1, 0.2]).measure(torch.zeros(3, 1, 4, 4), range(3))
    # would be one std per sample
    with pytest.raises(InputError, match=r"shape \(2, 2, 3\), got one of shape \(2, 1, 1\)"):
        Downsample(2, [-1], std=[0.1, 0.2]).measure(torch.zeros(2, 2, 6), range(2))
    with pytest.raises(InputError, match=r"shape \(2, 2, 3\), got one of shape \(4,\)"):
        Select(-1, 3, 4, std=torch.ones(4)).measure(torch.zeros(2, 2, 4), range(2))  # type: ignore[arg-type]


# operators that are not linear


def test_quantise_rounds_once() -> None:
    operator, x = Quantise(0.3), draw(4, 1, 8, 8, dtype=torch.float32)
    m = operator(x)

    assert isinstance(operator, Liftable) and not isinstance(operator, LinearOperator)
    assert torch.equal(operator(m), m) and torch.equal(operator(operator.pinv(m)), m)
    close(m / 0.3, (m / 0.3).round(), 1e-5)
    assert float((m - x).abs().max()) <= 0.15 + 1e-6


def test_residual_to_solve_for_is_zero_whatever_the_field() -> None:
    x = draw(3, 1, 8, 6)
    m = Residual(Burgers(), std=0.1).measure(x, range(3))

    assert m.shape == (3, 40) and not m.any() and Burgers()(x).min() > 0.1


def test_answers_are_judged_by_the_constraint_that_is_solved_for() -> None:
    def stage(constraint: Constraint) -> Inverse:
        return Inverse(tiny_denoiser(), constraint, Residual(Burgers()), DPS(), samples=3)

    assert stage(Burgers()).task == "inverse"
    with pytest.raises(ValueError, match="the one by which answers are judged"):
        stage(Burgers(dt=0.5))


def test_residual_is_that_of_the_constraint() -> None:
    burgers, x = Burgers(), draw(3, 1, 8, 6)
    operator = Residual(burgers)
    m = operator(x)

    assert m.ndim == 2 and torch.equal(m, burgers.residual(x).flatten(1))
    assert torch.equal(m.abs().mean(1), burgers(x)) and float(operator.std) == 1


def test_residual_falls_back_to_the_distance() -> None:
    class Small(Constraint):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().flatten(1).mean(1)

    x = draw(3, 1, 8, 6)
    assert torch.equal(Residual(Small())(x), Small()(x)[:, None])


def test_solver_may_solve_for_the_constraint_alone() -> None:
    burgers = Burgers()

    def distance(zeta: float) -> float:
        solver, operator = DPS(zeta, transition=DDIM(30)), Residual(burgers)
        m = torch.zeros_like(operator(torch.zeros(4, 1, 8, 8)))
        return float(burgers(solver(tiny_denoiser(), operator, m, (1, 8, 8), range(4)).y).mean())

    assert distance(0.3) < 0.5 * distance(0.0)


# what is refused


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Downsample(0), "factor of at least 1, got 0"),
        (lambda: Downsample(2, [2, 3]), r"counted from the last.*got \[2, 3\]"),
        (lambda: Downsample(2, [-1, -1]), r"distinct axes.*got \[-1, -1\]"),
        (lambda: Downsample(2, []), "distinct axes"),
        (lambda: Blur(0.0, [4, 4]), "positive sigma, got 0"),
        (lambda: Blur(1.0, [4]), r"two positive sizes \[H, W\], got \[4\]"),
        (lambda: Blur(1.0, [4, 0]), r"two positive sizes \[H, W\], got \[4, 0\]"),
        (lambda: Blur(1.0, [4, 4], cutoff=1.0), "cutoff between 0 and 1, got 1"),
        (lambda: Blur(1.0, [4, 4], "mirror"), "circular, reflect or zero, got 'mirror'"),
        (lambda: RandomProjection(0, [4]), "at least one row .* got 0 rows"),
        (lambda: RandomProjection(2, []), r"positive sizes, got 2 rows and the sizes \[\]"),
        (lambda: Fourier([4, 4], 1.5), "fraction between 0 and 1, got 1.5"),
        (lambda: Fourier([4, 4], low=-1), "low to be at least 0, got -1"),
        (lambda: Fourier([4, 4, 4]), r"two positive sizes \[H, W\], got \[4, 4, 4\]"),
        (lambda: Select(0, 1, 3), "axis of the fields, got 0, which is that of the samples"),
        (lambda: Select(-1, 0, 3), "distinct positions from 0 to 2, got 0"),
        (lambda: Quantise(0.0), "positive step, got 0"),
        (lambda: Mask([4, 4], [0, 0, 4]), r"box \[row, column, height, width\], got"),
        (lambda: Mask([4, 6], [0, 4, 2, 3]), r"inside a grid of 4x6, got \[0, 4, 2, 3\]"),
        (lambda: Mask([4, 6], [-1, 0, 2, 3]), r"inside a grid of 4x6, got \[-1, 0, 2, 3\]"),
        (lambda: Mask([4, 6], [-4, 0, 2, 3]), r"inside a grid of 4x6, got \[-4, 0, 2, 3\]"),
        (lambda: Mask([4, 6], [0, 0, 0, 3]), r"inside a grid of 4x6, got \[0, 0, 0, 3\]"),
        (lambda: Mask([4, 6], [0, 0, 4, 6], hidden=True), r"\[0, 0, 4, 6\] hides all"),
    ],
)
def test_arguments_of_no_meaning_are_refused(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize(
    ("operator", "shape", "words"),
    [
        (Downsample(4), (1, 8, 6), r"multiples of 4, got fields of shape \(2, 1, 8, 6\)"),
        (Downsample(2, [-3]), (2, 4), r"got fields of shape \(2, 2, 4\)"),
        (Blur(1.0, [4, 6]), (1, 6, 4), r"sizes \[4, 6\], got fields of shape \(2, 1, 6, 4\)"),
        (RandomProjection(2, [1, 4]), (4,), r"sizes \[1, 4\], got fields of shape \(2, 4\)"),
        (
            Select(5, 2, 8),
            (1, 8, 8),
            r"axis 5 has 8 positions, got fields of shape \(2, 1, 8, 8\)",
        ),
        (Select(-4, 2, 2), (1, 8, 8), r"axis -4 has 2 positions, got fields of shape"),
        (Mask([4, 6], [0, 0, 2, 2]), (1, 6, 4), r"sizes \[4, 6\], got fields of shape"),
        (Fourier([4, 6]), (2, 4, 5), r"sizes \[4, 6\], got fields of shape \(2, 2, 4, 5\)"),
    ],
)
def test_fields_of_another_size_are_refused(
    operator: Operator, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        operator(torch.zeros(2, *shape))


# YAML


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Select", {"dim": -1, "index": 2, "size": 4, "std": [0.1, 0.2]}),
        ("Mask", {"size": [4, 4], "box": [0, 0, 2, 4], "hidden": True, "std": [0.1, 0.2]}),
        ("Downsample", {"factor": 2, "dims": [-2], "std": [0.1, 0.2]}),
        ("Downsample", {"factor": 2}),
        ("Blur", {"sigma": 1, "size": [4, 4], "boundary": "reflect", "cutoff": 0.01}),
        ("RandomProjection", {"rows": 3, "shape": [4, 4], "seed": 1, "std": 0.2}),
        ("Fourier", {"size": [4, 4], "fraction": 0.5, "low": 1, "seed": 2, "std": [0.1, 0.2]}),
        ("Quantise", {"step": 0.1, "std": 0}),
        ("Residual", {"constraint": {"class_path": "constraints.Burgers"}, "std": 0.1}),
    ],
)
def test_operator_is_built_from_its_recipe(name: str, arguments: dict[str, Any]) -> None:
    operator = build_part({"class_path": f"inverse.{name}", "init_args": arguments})
    x = draw(2, 2, 4, 4) if name != "Residual" else draw(2, 1, 4, 4)

    assert type(operator).__name__ == name
    assert operator.measure(x, range(2)).dtype == torch.float64
    if "std" in arguments:
        assert operator.std.flatten().tolist() == pytest.approx(np.ravel(arguments["std"]))


@pytest.mark.parametrize(
    "arguments",
    [{"boundary": "mirror"}, {"std": "loud"}, {"size": 4}, {"radius": 2}],
)
def test_typo_in_a_recipe_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        arguments = {"sigma": 1.0, "size": [4, 4], **arguments}
        build_part({"class_path": "inverse.Blur", "init_args": arguments})
