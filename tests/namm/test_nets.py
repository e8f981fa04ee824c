"""The networks: shifts, convexity, gradients and refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from constraints import InputError
from namm import ICNN, MirrorMap, PatchNet, ResNet, pad_per_axis
from tests.namm.maps import AXES, relative, small_patch, unet
from tests.problems import randomise, tiny_mirror


def convex(strength: float = 0.9, seed: int = 0, scale: float = 0.5, **options: Any) -> ICNN:
    """A convex network whose weights are large, so that its Jacobian is far from a I."""

    options = {"channels": 1, "padding": AXES, **options}
    net = ICNN(width=6, layers=2, strength=strength, **options).double()
    randomise(net, scale, seed)
    net.clamp_()
    return net


def jacobian(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(net, x).reshape(x.numel(), x.numel())


# equivariance
def networks(padding: tuple[str, str]) -> dict[str, tuple[Callable[[Tensor], Tensor], int]]:
    """All networks by name, with the total stride of each."""

    torch.manual_seed(0)
    options: dict[str, Any] = {"channels": 1, "padding": padding}
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
        ICNN(strength=strength, channels=1, padding=AXES)


# inverse maps and mirrors
@pytest.mark.parametrize(
    "net", [ResNet(width=4, blocks=1, channels=1, padding=AXES), small_patch()]
)
def test_grid_that_does_not_fit_the_stride_is_refused(net: nn.Module) -> None:
    assert net(torch.randn(2, 1, 8, 12)).shape == (2, 1, 8, 12)

    with pytest.raises(ValueError, match=r"\(8, 10\)"):
        net(torch.randn(2, 1, 8, 10))


@pytest.mark.parametrize(
    "net", [ResNet(width=4, blocks=1, channels=1, padding=AXES), small_patch()]
)
def test_inverse_map_treats_samples_independently(net: nn.Module) -> None:
    y, net = torch.randn(16, 1, 8, 8), net.eval()
    with torch.no_grad():
        alone = torch.cat([net(field[None]) for field in y])
        assert relative(net(y), alone) <= 1e-5


def test_dropout_is_on_in_training_alone() -> None:
    net, y = ResNet(width=4, blocks=2, channels=1, padding=AXES), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        assert not torch.equal(net(y), net(y))
        net.eval()
        assert torch.equal(net(y), net(y))


def test_skip_and_softplus_of_the_reference() -> None:
    y = torch.randn(2, 1, 8, 8)
    torch.manual_seed(0)
    plain = ResNet(width=4, blocks=1, skip=False, channels=1, padding=AXES).eval()
    both = ResNet(width=4, blocks=1, softplus=True, channels=1, padding=AXES).eval()
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


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8)])
def test_fields_that_a_network_is_not_made_for_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"channels"):
        ICNN(width=4, layers=1, channels=1, padding=AXES)(torch.rand(shape))


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
        lambda: PatchNet(1, 2, 8, 1, 4, 1, padding=AXES).double().eval(),
        lambda: ResNet(1, 4, 1, skip=False, padding=AXES).double().eval(),
        lambda: convex(0.4),
    ],
)
def test_tangent_of_a_map_is_adjoint_to_its_gradient(make: Callable[[], nn.Module]) -> None:
    # guided solvers take both; a memory format must not stand in the way of either
    net, x, u, v = make(), *torch.randn(3, 2, 1, 8, 8, dtype=torch.float64)
    _, forward = torch.func.jvp(net, (x,), (u,))
    _, backward = torch.func.vjp(net, x)

    torch.testing.assert_close((forward * v).sum(), (u * backward(v)[0]).sum())
