"""Padding per axis, and convolutions that use it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from namm import AxisConv2d, AxisConvTranspose2d, Padding, pad, pad_per_axis
from namm.padding import fold
from tests.namm.maps import AXES, relative, unet
from tests.problems import Tiny


# padding per axis
def test_pad_follows_the_mode_of_each_axis() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    padded = pad(x, (2, 1), AXES)[0, 0]

    assert padded.shape == (7, 6)
    assert padded[:, 1].tolist() == [4, 8, 0, 4, 8, 0, 4]
    assert padded[2].tolist() == [0, 0, 1, 2, 3, 3]
    assert torch.equal(pad(x, (2, 1), AXES[::-1]), pad(x.mT, (1, 2), AXES).mT)
    assert torch.equal(pad(x, (1, 1), ("circular",) * 2)[0, 0, 1:-1, 1:-1], x[0, 0])


def test_convolution_never_mixes_the_ends_of_an_axis_that_has_ends() -> None:
    conv = AxisConv2d(1, 1, 5, padding=AXES)
    x = torch.zeros(1, 1, 16, 16)
    right, top = x.clone(), x.clone()
    right[..., -1], top[..., -1, :] = 1, 1
    seen = ((conv(right) - conv(x)) != 0).any(dim=-2).flatten()
    around = ((conv(top) - conv(x)) != 0).any(dim=-1).flatten()

    assert seen.nonzero().flatten().tolist() == [13, 14, 15]
    assert around.nonzero().flatten().tolist() == [0, 1, 13, 14, 15]


STEPS = [(3, 1, 1), (5, 1, 1), (7, 1, 1), (3, 2, 1), (3, 1, 4), (5, 2, 2)]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), STEPS)
def test_convolution_without_borders_is_that_of_torch(
    kernel: int, stride: int, dilation: int
) -> None:
    ours = AxisConv2d(2, 3, kernel, stride, padding=("constant",) * 2, dilation=dilation)
    theirs = nn.Conv2d(2, 3, kernel, stride, dilation * (kernel // 2), dilation)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 16, 16)

    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
    assert ours(x).shape[2:] == (16 // stride, 16 // stride)


def test_transposed_convolution_is_that_of_torch_in_the_interior() -> None:
    ours = AxisConvTranspose2d(2, 3, padding=AXES)
    theirs = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 6, 8)

    assert ours(x).shape == theirs(x).shape == (2, 3, 12, 16)
    # only the last row and column reach beyond the input, where theirs sees zeros
    torch.testing.assert_close(ours(x)[..., :-1, :-1], theirs(x)[..., :-1, :-1], rtol=0, atol=1e-6)
    assert relative(ours(x), theirs(x)) > 1e-2


def test_transposed_convolution_continues_each_axis_in_its_mode() -> None:
    conv, x = AxisConvTranspose2d(1, 1, padding=AXES), torch.randn(1, 1, 6, 6)
    wide = pad(x, (2, 2), AXES)

    torch.testing.assert_close(conv(x), conv(wide)[..., 4:-4, 4:-4], rtol=0, atol=1e-6)


def test_foreign_network_keeps_its_names_and_weights() -> None:
    before = {k: v.clone() for k, v in unet().state_dict().items()}
    net = pad_per_axis(unet(), AXES)
    after = net.state_dict()
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.padding != (0, 0)]

    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert convs and all(isinstance(m, AxisConv2d) and m.axes == AXES for m in convs)
    net.load_state_dict(before)


@pytest.mark.parametrize("make", [unet, Tiny])
def test_zero_padding_per_axis_changes_nothing(make: Callable[[], nn.Module]) -> None:
    y, t = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    torch.manual_seed(0)
    net = make()
    expected = net(y, t)
    got = pad_per_axis(net, ("constant", "constant"))(y, t)

    if make is unet:
        expected, got = expected.sample, got.sample
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_convolution_used_twice_is_still_one() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    net = pad_per_axis(nn.Sequential(conv, nn.SiLU(), conv), AXES)

    assert isinstance(net[0], AxisConv2d) and net[0] is net[2]
    assert len(list(net.parameters())) == 2


def test_dilated_convolution_is_converted() -> None:
    conv, x = nn.Conv2d(2, 3, 3, padding=2, dilation=2), torch.randn(1, 2, 8, 8)

    expected = conv(x)
    got = pad_per_axis(nn.Sequential(conv), ("constant", "constant"))(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_convolution_that_cannot_be_converted_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, dilation=2))

    with pytest.raises(ValueError, match=r"dilation=\(2, 2\)"):
        pad_per_axis(net, AXES)


@pytest.mark.parametrize("mode", ["circular", "replicate", "reflect", "constant"])
def test_pad_is_that_of_torch_and_fold_its_adjoint(mode: Padding) -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    v = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    padded = pad(x, (2, 1), (mode, mode))

    assert torch.equal(padded, nn.functional.pad(x, (1, 1, 2, 2), mode=mode))
    left, right = (padded * v).sum(), (x * fold(v, (2, 1), (mode, mode))).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mode", "width"), [("circular", 7), ("reflect", 6)])
def test_pad_beyond_the_field_is_refused(mode: Padding, width: int) -> None:
    x = torch.randn(1, 1, 6, 8)
    pad(x, (width - 1, 0), (mode, mode))
    with pytest.raises(ValueError, match=rf"{mode}.*{width}.*\b6\b"):
        pad(x, (width, 0), (mode, mode))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), STEPS)
def test_adjoint_of_a_convolution_is_its_transposed_jacobian(
    kernel: int, stride: int, dilation: int
) -> None:
    conv = AxisConv2d(2, 3, kernel, stride, dilation=dilation, padding=AXES).double()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    y, pullback = torch.func.vjp(conv, x)
    v = torch.randn_like(y)

    torch.testing.assert_close(conv.adjoint(v), pullback(v)[0], rtol=1e-12, atol=1e-12)
