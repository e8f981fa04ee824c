"""The losses that train the maps, against known values."""

import pytest
import torch
from torch import Tensor

from constraints import Burgers, Distance, Given, noise
from namm import IdentityMirror, mirror_losses
from tests.problems import Affine, Total, tiny_mirror


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

    class Watching(Distance):
        def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
            seen.append(x.dtype)
            return x.square().flatten(1).mean(dim=1)

    x = torch.rand(2, 1, 4, 4, dtype=dtype)
    mirror_losses(IdentityMirror(), Watching(), x, torch.zeros_like(x))
    assert set(seen) == {torch.promote_types(dtype, torch.float32)}


def test_watched_term_is_not_trained() -> None:
    mirror, x = tiny_mirror(), torch.randn(2, 1, 8, 8)
    losses = mirror_losses(mirror, Burgers(), x, torch.zeros_like(x))

    assert not losses.pop("constraint_clean").requires_grad
    assert all(term.requires_grad for term in losses.values())
