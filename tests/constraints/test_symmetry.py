"""Images that a group of moves does not change."""

import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from constraints import InputError, Periodic, Reflection, Rotation, noise
from tests.constraints.symmetries import Symmetry
from tests.constraints.symmetries import symmetry as symmetry  # a fixture


def white(n: int, *shape: int) -> Tensor:
    return noise([(0, i) for i in range(n)], shape).double()


# the constraints
@pytest.mark.parametrize("tiles", [(2, 2), (1, 3), (4, 2)])
def test_distance_of_tiles_is_that_of_the_paper(tiles: Sequence[int]) -> None:
    rows, columns = tiles
    x = white(5, 2, 8, 12)
    height, width = 8 // rows, 12 // columns
    wanted = torch.zeros(5, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            tile = x[..., i * height : (i + 1) * height, j * width : (j + 1) * width]
            repeated = tile.repeat(1, 1, rows, columns)
            wanted += (x - repeated).abs().mean(dim=(1, 2, 3))

    torch.testing.assert_close(Periodic(tiles)(x), wanted, rtol=1e-13, atol=0)


def test_distance_of_one_reflection_or_turn_is_the_mean_change() -> None:
    x = white(3, 2, 6, 6)

    def change(*images: Tensor) -> Tensor:
        return torch.stack([(x - image).abs().mean(dim=(1, 2, 3)) for image in images]).sum(0)

    for found, wanted in (
        (Reflection([-1]), change(x.flip(-1))),
        (Reflection([-1, -2]), change(x.flip(-1), x.flip(-2), x.flip(-1, -2))),
        (Rotation(2), change(x.flip(-1, -2))),
        (Rotation(4), change(*(x.rot90(k, (2, 3)) for k in (1, 2, 3)))),
    ):
        torch.testing.assert_close(found(x), wanted, rtol=1e-13, atol=0)


def test_orbit_is_one_of_a_group(symmetry: Symmetry) -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    orbit = {tuple(image.flatten().tolist()) for image in symmetry.orbit(x)[0]}

    assert len(orbit) == symmetry.orbit(x).shape[1]
    assert torch.equal(symmetry.orbit(x)[:, 0], x)
    # to move what was moved leads to the same images
    for image in symmetry.orbit(x).unbind(dim=1):
        assert {tuple(y.flatten().tolist()) for y in symmetry.orbit(image)[0]} == orbit


def test_average_is_the_nearest_symmetric_field(symmetry: Symmetry) -> None:
    x = white(3, 2, 6, 6)
    average = symmetry.nearest(x)
    other = symmetry.nearest(white(6, 2, 6, 6)[3:])

    assert symmetry(average).max() <= 1e-14
    torch.testing.assert_close(symmetry.nearest(average), average, rtol=0, atol=1e-15)
    # the way to it is normal to all symmetric fields
    assert ((x - average) * other).sum(dim=(1, 2, 3)).abs().max() <= 1e-13
    assert (symmetry(x) > 0.3).all()


def test_one_step_of_least_squares_leads_to_the_average(symmetry: Symmetry) -> None:
    x = white(1, 1, 6, 6)
    jacobian = torch.autograd.functional.jacobian(symmetry.residual, x).reshape(-1, 36)
    step = torch.linalg.pinv(jacobian) @ symmetry.residual(x).flatten()

    torch.testing.assert_close(x - step.view_as(x), symmetry.nearest(x), rtol=0, atol=1e-13)


def test_unfolded_field_is_symmetric_exactly(symmetry: Symmetry) -> None:
    x = white(4, 2, 6, 6).float()
    unfolded = symmetry.unfold(x)

    assert not symmetry(unfolded).any()
    assert torch.equal(symmetry.unfold(unfolded), unfolded)
    assert torch.equal(unfolded[..., 0, 0], x[..., 0, 0])
    pieces = [len(field.unique()) for field in unfolded[:, :1]]
    assert pieces == [symmetry.unknowns((1, 6, 6))] * 4


@pytest.mark.parametrize(
    ("constraint", "shape", "unknowns"),
    [
        (Periodic([2, 4]), (3, 8, 8), 3 * 4 * 2),
        (Reflection([-1]), (1, 4, 5), 4 * 3),
        (Reflection([-2]), (1, 4, 5), 2 * 5),
        (Reflection([-1, -2]), (2, 5, 5), 2 * 3 * 3),
        (Rotation(2), (1, 5, 4), 10),
        (Rotation(4), (1, 5, 5), 6 + 1),
        (Rotation(4), (1, 8, 8), 16),
    ],
)
def test_unknowns_are_the_orbits(
    constraint: Symmetry, shape: tuple[int, ...], unknowns: int
) -> None:
    assert constraint.unknowns(shape) == unknowns


def test_gradient_is_right_on_noise_and_finite_on_data(symmetry: Symmetry) -> None:
    x = white(2, 1, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(symmetry, (x,))

    x = symmetry.unfold(x.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(symmetry(x).sum(), x)
    assert torch.isfinite(gradient).all()


def test_samples_are_independent(symmetry: Symmetry) -> None:
    x = white(5, 1, 12, 12).float()
    together = symmetry(x)
    x[1] = float("nan")

    assert torch.equal(
        together, torch.cat([symmetry(field[None]) for field in white(5, 1, 12, 12).float()])
    )
    assert torch.equal(symmetry(x)[2:], together[2:]) and symmetry(x)[1].isnan()


@pytest.mark.parametrize(
    ("constraint", "shape", "message"),
    [
        (Periodic([2, 3]), (1, 1, 6, 8), r"\b2\b.*\b3\b.*\(1, 1, 6, 8\)"),
        (Periodic(), (1, 6, 6), r"Periodic.*\(1, 6, 6\)"),
        (Reflection(), (1, 6, 6), r"Reflection.*\(1, 6, 6\)"),
        (Rotation(4), (1, 1, 6, 8), r"Rotation.*\(1, 1, 6, 8\)"),
        (Rotation(2), (6, 8), r"Rotation.*\(6, 8\)"),
    ],
)
def test_shape_that_cannot_be_judged_is_refused(
    constraint: Symmetry, shape: tuple[int, ...], message: str
) -> None:
    constraint.check_shape(torch.zeros(1, 2, 6, 6))
    Rotation(2).check_shape(torch.zeros(1, 1, 6, 8))

    with pytest.raises(InputError, match=message):
        constraint.check_shape(torch.zeros(shape))


def test_groups_that_do_not_exist_are_refused() -> None:
    for tiles in ([2], [1, 1], [0, 2], [2, 2, 2]):
        with pytest.raises(ValueError, match=re.escape(str(tiles))):
            Periodic(tiles)
    for axes in ([], [0], [-1, -1], [-3]):
        with pytest.raises(ValueError, match=re.escape(str(axes))):
            Reflection(axes)
    with pytest.raises(ValueError, match=r"Rotation.*\b3\b"):
        Rotation(3)
