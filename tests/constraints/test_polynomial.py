"""Polynomials as constraints: residuals, gradients and refusals."""

import pytest
import torch
from torch import Tensor

from constraints import InputError, Polynomial, Spiral, noise
from tests.constraints.polynomials import TERMS


def points(*coordinates: tuple[float, float]) -> Tensor:
    return torch.tensor(coordinates, dtype=torch.float64)[:, :, None, None]


def test_every_constraint_crosses_the_data_several_times() -> None:
    x = Spiral().curve(torch.linspace(0, 1, 5000, dtype=torch.float64))[:, :, None, None]
    for name, (terms, _, _) in TERMS.items():
        value = Polynomial(terms).residual(x).flatten()
        crossings = int((value[1:] * value[:-1] < 0).sum())
        assert crossings >= 3, name


# polynomials
@pytest.mark.parametrize("name", TERMS)
def test_residual_is_the_polynomial(name: str) -> None:
    terms, inequality, function = TERMS[name]
    x = 2 * noise([(0, i) for i in range(50)], (2, 1, 1)).double()
    wanted = torch.tensor([function(*p) for p in x.flatten(1).tolist()], dtype=x.dtype)
    polynomial = Polynomial(terms, inequality)

    torch.testing.assert_close(polynomial.residual(x).flatten(), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(polynomial(x), wanted.abs(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_gradient_is_finite_everywhere(name: str) -> None:
    terms, inequality, _ = TERMS[name]
    x = points((0, 0), (1, 0), (0, -1), (-2, 3), (0, 3 ** (1 / 3))).requires_grad_()
    polynomial = Polynomial(terms, inequality)
    (gradient,) = torch.autograd.grad(polynomial(x).sum(), x)

    assert torch.isfinite(gradient).all()
    smooth = points((0.3, 1.2), (-1.1, -0.9)).requires_grad_()
    assert torch.autograd.gradcheck(polynomial, smooth)


def test_inequality_is_satisfied_inside() -> None:
    disc = Polynomial(TERMS["disc"][0], inequality=True)

    assert disc(points((0.8, 0.4), (0, 1), (1, 2))).tolist() == [0, 0, 3]


def test_polynomial_acts_at_each_position() -> None:
    x = noise([(0, 0), (0, 1)], (3, 4, 5))
    sphere = Polynomial([[1, 2, 0, 0], [1, 0, 2, 0], [1, 0, 0, 2], [-1, 0, 0, 0]])

    assert torch.allclose(sphere.residual(x), x.square().sum(dim=1, keepdim=True) - 1, atol=1e-6)
    with pytest.raises(InputError, match="3 channels"):
        sphere.check_shape(x[:, :2])
    sphere.check_shape(point := x[:, :, 0, 0])  # a field may have no axes
    assert torch.equal(sphere.residual(point), sphere.residual(x)[:, :, 0, 0])


@pytest.mark.parametrize(
    "terms", [[], [[1.0]], [[1, 2, 0], [1, 2]], [[1, 0.5, 0]], [[1, -1, 0]]], ids=str
)
def test_terms_that_are_none_are_refused(terms: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="Polynomial"):
        Polynomial(terms)
