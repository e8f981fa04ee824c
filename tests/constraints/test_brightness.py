"""Total brightness: the distance of an image is the error of its sum."""

import math

import pytest
import torch

from constraints import TotalBrightness


# the constraint
def test_distance_is_that_of_the_sum() -> None:
    x = torch.rand(4, 2, 3, 5, dtype=torch.float64)
    total = TotalBrightness(7.0)

    assert total.residual(x).shape == (4, 1)
    torch.testing.assert_close(total(x), (x.sum(dim=(1, 2, 3)) - 7).abs(), rtol=1e-14, atol=0)
    assert total.unknowns((2, 3, 5)) == 29
    with pytest.raises(ValueError, match=r"total.*-1\.0"):
        TotalBrightness(-1.0)


def test_sum_in_float32_is_as_exact_as_its_terms() -> None:
    x = torch.rand(200, 1, 64, 64, dtype=torch.float64)
    x = (120 * x / x.sum(dim=(1, 2, 3), keepdim=True)).float()
    exact = torch.tensor([math.fsum(field.flatten().tolist()) - 120 for field in x])
    found = TotalBrightness().residual(x).squeeze(1)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def test_gradient_is_right_on_noise_and_finite_at_the_total() -> None:
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(TotalBrightness(), (x,))

    x = torch.full((1, 1, 4, 4), 7.5, requires_grad=True)
    distance = TotalBrightness()(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert distance.item() == 0 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 7, 9), (3,)])
def test_sample_is_the_same_alone_and_in_a_batch(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.randn(37, *shape, dtype=dtype)
    together = TotalBrightness()(x)

    assert torch.equal(together, torch.cat([TotalBrightness()(field[None]) for field in x]))
    assert torch.equal(together[5:], TotalBrightness()(x[5:]))


def test_nearest_image_moves_all_pixels_alike() -> None:
    x = torch.rand(3, 1, 4, 4)
    projection = TotalBrightness(5.0).project(x)
    shift = projection.x - x
    torch.testing.assert_close(projection.x.sum(dim=(1, 2, 3)), torch.full((3,), 5.0))
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(x))
    length = torch.linalg.vector_norm(shift.flatten(1), dim=1)
    torch.testing.assert_close(projection.report["moved"], length)
