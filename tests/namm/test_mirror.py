"""Mirrors: shapes, the identity, and the regulariser."""

import pytest
import torch

from namm import IdentityMirror, Mirror, MirrorMap
from tests.namm.maps import small_patch
from tests.problems import Affine, tiny_mirror


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
