"""The maps: padding per axis, the networks, mirrors, and the loss that trains them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from constraints import Burgers, Constraint, InputError, noise
from namm import (
    ICNN,
    AxisConv2d,
    AxisConvTranspose2d,
    IdentityMirror,
    Mirror,
    MirrorMap,
    Padding,
    PatchNet,
    ResNet,
    mirror_losses,
    pad,
    pad_per_axis,
)
from namm.padding import fold
from problems import Affine, Tiny, Total, randomise, tiny_mirror

AXES = ("circular", "replicate")


def unet(**options: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        **options,
    ).eval()


def small_patch(patch: int = 4, **options: Any) -> PatchNet:
    return PatchNet(patch=patch, width=8, blocks=1, detail=4, finish=1, **options)


def convex(strength: float = 0.9, seed: int = 0, scale: float = 0.5, **options: Any) -> ICNN:
    """A convex network whose weights are large, so that its Jacobian is far from a I."""

    net = ICNN(width=6, layers=2, strength=strength, **options).double()
    randomise(net, scale, seed)
    net.clamp_()
    return net


def jacobian(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(net, x).reshape(x.numel(), x.numel())


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


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
    conv = AxisConv2d(1, 1, 5)
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
    ours = AxisConvTranspose2d(2, 3)
    theirs = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 6, 8)

    assert ours(x).shape == theirs(x).shape == (2, 3, 12, 16)
    # only the last row and column reach beyond the input, where theirs sees zeros
    torch.testing.assert_close(ours(x)[..., :-1, :-1], theirs(x)[..., :-1, :-1], rtol=0, atol=1e-6)
    assert relative(ours(x), theirs(x)) > 1e-2


def test_transposed_convolution_continues_each_axis_in_its_mode() -> None:
    conv, x = AxisConvTranspose2d(1, 1), torch.randn(1, 1, 6, 6)
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

    with pytest.raises(ValueError, match=r"cannot convert .* dilation=\(2, 2\)"):
        pad_per_axis(net, AXES)


# equivariance


def networks(padding: tuple[str, str]) -> dict[str, tuple[Callable[[Tensor], Tensor], int]]:
    """All networks by name, with the total stride of each."""

    torch.manual_seed(0)
    options: dict[str, Any] = {"padding": padding}
    resnet = ResNet(width=4, blocks=1, **options).eval()
    patch = small_patch(4, **options).eval()
    smooth = ICNN(width=6, layers=2, **options)
    randomise(smooth, 0.5)
    smooth.clamp_()
    net = pad_per_axis(unet(), padding)  # type: ignore[arg-type]
    pair = MirrorMap(ResNet(width=4, blocks=1, **options), small_patch(2, **options)).eval()
    return {
        "ICNN": (smooth, 1),
        "ResNet": (resnet, 4),
        "PatchNet": (patch, 4),
        "g of MirrorMap": (pair, 4),
        "f of MirrorMap": (pair.inverse, 2),
        "UNet": (lambda y: net(y, torch.full((len(y),), 500.0)).sample, 2),
    }


NAMES = ("ICNN", "ResNet", "PatchNet", "g of MirrorMap", "f of MirrorMap", "UNet")


def worst(name: str, padding: tuple[str, str]) -> float:
    net, stride = networks(padding)[name]
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        out = net(x)
        return max(
            relative(net(x.roll(k * stride, -2)), out.roll(k * stride, -2))
            for k in range(1, 16 // stride)
        )


@pytest.mark.parametrize("name", NAMES)
def test_shift_by_a_multiple_of_the_stride_passes_through(name: str) -> None:
    assert worst(name, AXES) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_shift_does_not_pass_through_zero_padding(name: str) -> None:
    assert worst(name, ("constant", "constant")) > 1e-2


@pytest.mark.parametrize("name", ["ICNN", "ResNet", "PatchNet", "UNet"])
def test_time_is_not_periodic(name: str) -> None:
    net, stride = networks(AXES)[name]
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert relative(net(x.roll(stride, -1)), net(x).roll(stride, -1)) > 1e-2


def test_dilated_blocks_tie_points_that_others_cannot() -> None:
    x = torch.randn(1, 1, 64, 64)
    far = x.clone()
    far[..., 32, 32] += 1.0
    changes = []
    for dilations in ((1,), (1, 4)):
        torch.manual_seed(0)
        net = PatchNet(1, 4, 8, 2, 4, 1, dilations, padding=AXES)
        # normalisation ties all points, but only through two numbers of a group
        for module in net.modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = lambda h: h  # type: ignore[method-assign]
        with torch.no_grad():
            changes.append((net(far) - net(x)).abs()[..., 0, 0].item())

    assert changes[0] == 0 < 1e-6 < changes[1]


# the convex potential


@pytest.mark.parametrize("strength", [0.2, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_jacobian_is_symmetric_and_positive_definite(strength: float, seed: int) -> None:
    net = convex(strength, seed)
    for scale in (0.1, 1.0, 10.0):
        matrix = jacobian(net, scale * torch.randn(1, 1, 6, 6, dtype=torch.float64))
        size = matrix.abs().max()

        assert (matrix - matrix.T).abs().max() <= 1e-10 * size
        values = torch.linalg.eigvalsh(matrix)
        assert values.min() >= strength - 1e-10 * size
        assert values.max() > strength + 0.1  # far from the linear map a x


def test_clamp_is_what_makes_it_convex() -> None:
    net = convex()
    for conv in (*net.convex, net.out):
        conv.weight.data.neg_()
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)

    assert torch.linalg.eigvalsh(jacobian(net, x)).min() < net.strength - 0.1
    net.clamp_()
    assert all(conv.weight.min() >= 0 for conv in (*net.convex, net.out))
    assert torch.linalg.eigvalsh(jacobian(net, x)).min() >= net.strength - 1e-10


def test_potential_is_convex_along_segments() -> None:
    net = convex()
    a, b = torch.randn(2, 64, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        for share in (0.1, 0.5, 0.8):
            chord = share * net.potential(a) + (1 - share) * net.potential(b)
            assert (net.potential(share * a + (1 - share) * b) <= chord + 1e-10).all()


def test_map_is_strongly_monotone() -> None:
    net = convex(strength=0.5)
    a, b = torch.randn(2, 64, 1, 6, 6, dtype=torch.float64)
    product = ((net(a) - net(b)) * (a - b)).flatten(1).sum(dim=1)

    assert (product >= 0.5 * (a - b).square().flatten(1).sum(dim=1) - 1e-10).all()


def test_map_is_the_gradient_of_its_potential() -> None:
    net, x = convex(0.4), torch.randn(1, 1, 4, 4, dtype=torch.float64)

    def potential(x: Tensor) -> Tensor:
        return 0.6 * net.potential(x) + 0.4 / 2 * x.square().sum(dim=(1, 2, 3))

    step = 1e-5 * torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    with torch.no_grad():
        slope = (potential(x + step) - potential(x - step)) / 2e-5
        torch.testing.assert_close(net(x).flatten(), slope, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(
            net.excess(x, net(x)).flatten(), (slope - 0.4 * x.flatten()) / 0.6, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("make", [lambda: convex(0.5), lambda: tiny_mirror().double()])
def test_map_is_the_same_with_and_without_gradients(make: Callable[[], nn.Module]) -> None:
    net, x = make(), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    expected = net(x)
    assert expected.requires_grad
    with torch.no_grad():
        silent = net(x)
    with torch.inference_mode():
        # a tensor made here is what a data loader gives an evaluation
        inferred = net(x.clone()).clone()
    net.requires_grad_(False)
    frozen = net(x)

    assert not silent.requires_grad
    for other in (silent, inferred, frozen.detach()):
        torch.testing.assert_close(other, expected.detach(), rtol=0, atol=1e-12)


def test_gradients_flow_through_the_map_to_weights_and_input() -> None:
    net = convex(0.5)
    # away from the kinks of its activations, where it has no second derivative
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = list(net.parameters())

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(dict(net.named_parameters()), values, strict=True))
        return torch.func.functional_call(net, named, x).sin().sum()

    assert torch.autograd.gradcheck(loss, (x, *weights), fast_mode=True)
    gradients = torch.autograd.grad(net(x).square().sum(), [x, *weights])
    assert all(g.any() for g in gradients)


def test_map_does_not_depend_on_the_size_of_the_grid() -> None:
    net = convex(padding=("circular", "circular"))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x.repeat(1, 1, 2, 3)), net(x).repeat(1, 1, 2, 3))


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, 1.0])
def test_strength_beyond_its_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=f"got {strength}"):
        ICNN(strength=strength)


# inverse maps and mirrors


@pytest.mark.parametrize("net", [ResNet(width=4, blocks=1), small_patch()])
def test_grid_that_does_not_fit_the_stride_is_refused(net: nn.Module) -> None:
    assert net(torch.randn(2, 1, 8, 12)).shape == (2, 1, 8, 12)

    with pytest.raises(ValueError, match=r"multiples of 4, got \(8, 10\)"):
        net(torch.randn(2, 1, 8, 10))


@pytest.mark.parametrize("net", [ResNet(width=4, blocks=1), small_patch()])
def test_inverse_map_treats_samples_independently(net: nn.Module) -> None:
    y, net = torch.randn(16, 1, 8, 8), net.eval()
    with torch.no_grad():
        alone = torch.cat([net(field[None]) for field in y])
        assert relative(net(y), alone) <= 1e-5


def test_dropout_is_on_in_training_alone() -> None:
    net, y = ResNet(width=4, blocks=2), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        assert not torch.equal(net(y), net(y))
        net.eval()
        assert torch.equal(net(y), net(y))


def test_skip_and_softplus_of_the_reference() -> None:
    y = torch.randn(2, 1, 8, 8)
    torch.manual_seed(0)
    plain = ResNet(width=4, blocks=1, skip=False).eval()
    both = ResNet(width=4, blocks=1, softplus=True).eval()
    both.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(both(y), nn.functional.softplus(y + plain(y)))
        assert (both(y) > 0).all()


def test_bfloat16_is_for_training_alone() -> None:
    torch.manual_seed(0)
    low = small_patch(bfloat16=True).eval()
    full = small_patch().eval()
    full.load_state_dict(low.state_dict())
    y = torch.randn(2, 1, 8, 8)

    assert torch.equal(low(y), full(y))
    low.train(), full.train()
    assert low(y).dtype == torch.float32
    assert 1e-6 < relative(low(y), full(y)) < 0.05


@pytest.mark.parametrize(
    "mirror", [IdentityMirror(), tiny_mirror(), Affine()], ids=lambda m: type(m).__name__
)
def test_mirror_keeps_the_shape(mirror: Mirror) -> None:
    x = torch.randn(3, 1, 8, 8)
    y = mirror(x)

    assert y.shape[1:] == mirror.shape(x.shape[1:])
    assert mirror.inverse(y).shape == x.shape
    assert mirror.regulariser(x, y).shape == ()


def test_identity_mirror_changes_nothing() -> None:
    mirror, x = IdentityMirror(), torch.randn(2, 1, 8, 8)

    assert mirror(x) is x and mirror.inverse(x) is x
    assert mirror.regulariser(x, x) == 0 and not list(mirror.parameters())


def test_regulariser_is_the_gradient_of_the_potential_or_the_change() -> None:
    x = torch.randn(2, 1, 8, 8)
    smooth = tiny_mirror()
    x_in = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(smooth.forward_map.potential(x_in).sum(), x_in)
    free = MirrorMap(small_patch(), small_patch())

    torch.testing.assert_close(
        smooth.regulariser(x, smooth(x)), gradient.abs().mean(), rtol=1e-3, atol=1e-7
    )
    assert torch.equal(free.regulariser(x, free(x)), (free(x) - x).abs().mean())


# the loss


def test_loss_of_a_linear_mirror_is_known() -> None:
    # g(x) = 2 x + 1, f(y) = y / 4, x = 4, noise = 2, the sum of the 4 entries wanted to be 3
    x, n = torch.full((3, 1, 2, 2), 4.0), torch.full((3, 1, 2, 2), 2.0)
    losses = mirror_losses(Affine(2.0, 1.0, 0.25), Total(3.0), x, n)

    assert {k: float(v) for k, v in losses.items()} == {
        "cycle_forward": 4 - 9 / 4,  # f(g(x)) = 9 / 4
        "cycle_inverse": 11 - (2 * 11 / 4 + 1),  # g(f(11)) for the noisy point 11
        "constraint": 4 * 11 / 4 - 3,
        "constraint_clean": 4 * 9 / 4 - 3,
        "regulariser": 9 - 4,
    }


def test_loss_of_fine_tuning_is_that_of_mirror_samples() -> None:
    x, n, y = (torch.full((3, 1, 2, 2), value) for value in (4.0, 2.0, 5.0))
    losses = mirror_losses(Affine(2.0, 1.0, 0.25), Total(3.0), x, n, y)

    assert {k: float(v) for k, v in losses.items()} == {
        "cycle_forward": 4 - 9 / 4,  # still of the data
        "cycle_inverse": 7 - (2 * 7 / 4 + 1),
        "constraint": 4 * 7 / 4 - 3,
        "constraint_clean": 4 * 9 / 4 - 3,
        "regulariser": 9 - 4,
    }


def test_loss_of_a_learned_mirror_is_its_definition() -> None:
    mirror, constraint = tiny_mirror().eval(), Burgers()
    x, n, y = (noise([(k, i) for i in range(4)], (1, 8, 8)) for k in range(3))
    losses = mirror_losses(mirror, constraint, x, 0.1 * n, y)
    noisy = y + 0.1 * n
    back = mirror.inverse(noisy)

    for key, expected in {
        "cycle_forward": (mirror.inverse(mirror(x)) - x).abs().mean(),
        "cycle_inverse": (mirror(back) - noisy).abs().mean(),
        "constraint": constraint(back).mean(),
        "constraint_clean": constraint(mirror.inverse(mirror(x))).mean(),
        "regulariser": mirror.regulariser(x, mirror(x)),
    }.items():
        torch.testing.assert_close(losses[key], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_distance_is_taken_in_float32_or_better(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    class Watching(Constraint):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return x.square().flatten(1).mean(dim=1)

    x = torch.rand(2, 1, 4, 4, dtype=dtype)
    mirror_losses(IdentityMirror(), Watching(), x, torch.zeros_like(x))
    assert set(seen) == {torch.promote_types(dtype, torch.float32)}


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8)])
def test_fields_that_a_network_is_not_made_for_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"with 1 channels got .*`channels` of the data"):
        ICNN(width=4, layers=1)(torch.rand(shape))


def test_watched_term_is_not_trained() -> None:
    mirror, x = tiny_mirror(), torch.randn(2, 1, 8, 8)
    losses = mirror_losses(mirror, Burgers(), x, torch.zeros_like(x))

    assert not losses.pop("constraint_clean").requires_grad
    assert all(term.requires_grad for term in losses.values())


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
    with pytest.raises(ValueError, match=f"{mode} padding of {width} .* axis of 6 points"):
        pad(x, (width, 0), (mode, mode))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), STEPS)
def test_adjoint_of_a_convolution_is_its_transposed_jacobian(
    kernel: int, stride: int, dilation: int
) -> None:
    conv = AxisConv2d(2, 3, kernel, stride, dilation=dilation).double()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    y, pullback = torch.func.vjp(conv, x)
    v = torch.randn_like(y)

    torch.testing.assert_close(conv.adjoint(v), pullback(v)[0], rtol=1e-12, atol=1e-12)


def test_written_out_gradient_trains_as_that_of_autograd_does() -> None:
    net, x = convex(0.4), torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(net.potential(x).sum(), x, create_graph=True)
    by_autograd = 0.6 * slope + 0.4 * x
    weights = [net.free.weight, *(conv.weight for conv in net.convex), net.out.weight, x]
    v = torch.randn_like(x)

    torch.testing.assert_close(net(x), by_autograd, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad((net(x) * v).sum(), weights)
    theirs = torch.autograd.grad((by_autograd * v).sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PatchNet(1, 2, 8, 1, 4, 1).double().eval(),
        lambda: ResNet(1, 4, 1, skip=False).double().eval(),
        lambda: convex(0.4),
    ],
)
def test_tangent_of_a_map_is_adjoint_to_its_gradient(make: Callable[[], nn.Module]) -> None:
    # guided solvers take both; a memory format must not stand in the way of either
    net, x, u, v = make(), *torch.randn(3, 2, 1, 8, 8, dtype=torch.float64)
    _, forward = torch.func.jvp(net, (x,), (u,))
    _, backward = torch.func.vjp(net, x)

    torch.testing.assert_close((forward * v).sum(), (u * backward(v)[0]).sum())
