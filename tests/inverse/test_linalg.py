"""Conjugate gradients, tangents and damped steps against dense matrices."""

from typing import Any

import pytest
import torch

from inverse import Pullback, Select
from inverse.linalg import Tangent, cg, damped_step
from tests.inverse.poses import KEPT, SHAPE, STD, N
from tests.problems import Affine, tiny_mirror


def test_conjugate_gradients_solve_each_system() -> None:
    root = torch.randn(5, 8, 8, dtype=torch.float64)
    matrices = root @ root.mT + torch.eye(8)
    b = torch.randn(5, 8, dtype=torch.float64)
    b[2] = 0
    z, left = cg(lambda v: torch.einsum("bij,bj->bi", matrices, v), b, 60, 1e-10)

    expected = torch.linalg.solve(matrices, b)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-8)  # conditions of about 30
    assert (left <= 1e-10).all()
    alone, _ = cg(lambda v: v @ matrices[3], b[3:4], 60, 1e-10)
    torch.testing.assert_close(alone[0], z[3], rtol=0, atol=1e-12)
    few, left = cg(lambda v: torch.einsum("bij,bj->bi", matrices, v), b, 2, 1e-10)
    error = b - torch.einsum("bij,bj->bi", matrices, few)
    assert left.tolist() == pytest.approx(
        [float(e.norm() / max(v.norm(), 1e-30)) for e, v in zip(error, b, strict=True)], rel=1e-9
    )


def test_tangent_is_the_jacobian() -> None:
    mirror = tiny_mirror().double()
    operator = Pullback(Select(-1, 2, 4, 0.1).double(), mirror)
    y = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    tangent = Tangent.of(operator, y)
    v, u = torch.randn_like(y), torch.randn_like(operator(y))

    for k in range(2):
        jacobian: Any = torch.autograd.functional.jacobian(operator, y[k : k + 1])
        jacobian = jacobian.reshape(8, 16)
        torch.testing.assert_close(tangent.jvp(v)[k].flatten(), jacobian @ v[k].flatten())
        torch.testing.assert_close(tangent.vjp(u)[k].flatten(), u[k].flatten() @ jacobian)
    assert torch.equal(tangent.value, operator(y).detach())


def test_damped_step_through_a_linear_mirror_is_the_analytic_one() -> None:
    c, std, r2 = 0.25, STD, 0.3
    operator = Pullback(Select(-1, KEPT, N, std).double(), Affine(2.0, 1.0, c))
    y, m = (torch.randn(4, *s, dtype=torch.float64) for s in (SHAPE, (1, 1, len(KEPT))))
    damping = operator.std.double() ** 2 / r2
    change, left = damped_step(Tangent.of(operator, y), m, damping, 5)

    expected = torch.zeros_like(y)
    expected[..., KEPT] = c / (c**2 + std**2 / r2) * (m - c * y[..., KEPT])
    torch.testing.assert_close(change, expected, rtol=1e-12, atol=0)
    assert left.max() < 1e-5
