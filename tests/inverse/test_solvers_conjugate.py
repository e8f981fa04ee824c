"""The increments of the conjugate integrator against their integrals."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from inverse.solvers.conjugate import increments, integrated_rate
from mdm import FlowSchedule, VPSchedule
from tests.inverse.poses import beta, big_b, double, integral, kappa, mu, phis, sigma

# the increments of one step
REFERENCE = {
    (0.0, 2.0): [
        *(1.5363970492e-01, -6.6308623665e-01, 8.0095889073e-02),
        *(-4.9687869309e-01, -1.3099665187e-01),
    ],
    (0.0, 15.0): [
        *(3.6914800791e-04, -6.6308623665e-01, 5.0076946001e-04),
        *(-3.7265901981e00, -3.0657910066e-04),
    ],
    (-0.5, 2.0): [
        *(1.2848545867e-01, -5.5312260522e-01, 6.6793311836e-02),
        *(-4.1458924054e-01, -1.0951138895e-01),
    ],
    (-0.5, 15.0): [
        *(3.1165157507e-04, -5.5312260522e-01, 4.2246024129e-04),
        *(-3.1094193041e00, -2.5877802388e-04),
    ],
}


def transformed(lam: float, w: float, t: float, s: float) -> list[float]:
    """The five increments of the transformed state that the code works with."""

    ours, other = increments(
        VPSchedule(), "conjugate", w, lam, *double(t, s), double(0.0)[0][None]
    )
    a = sigma(t) / mu(t)
    inside = mu(s) ** w * math.exp(lam * s)
    outside = math.exp(lam * s)
    return [
        inside * float(ours.pinv),
        outside * float(other.frozen - other.clean * a),
        inside * float(ours.frozen - ours.clean * a),
        outside * float(other.jacobian),
        inside * float(ours.jacobian),
    ]


@pytest.mark.parametrize(("lam", "w"), REFERENCE)
def test_increments_are_those_of_the_reference(lam: float, w: float) -> None:
    found = transformed(lam, w, 0.4, 0.3202)

    assert found == pytest.approx(REFERENCE[lam, w], rel=1e-9)
    assert found == pytest.approx([integral(f, 0.4, 0.3202) for f in phis(lam, w)], rel=1e-9)


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.7), (0.4, 0.0), (0.08, 0.001)])
@pytest.mark.parametrize(("lam", "w"), [(0.0, 1.0), (0.3, 5.0), (-0.5, 2.0)])
def test_increments_of_long_steps(lam: float, w: float, t: float, s: float) -> None:
    # to 1e-9 of the largest: those that cancel are differences of numbers of order 1
    found, exact = transformed(lam, w, t, s), [integral(f, t, s) for f in phis(lam, w)]
    scale = [mu(s) ** w, 1, mu(s) ** w, 1, mu(s) ** w]
    for value, number, size in zip(found, exact, scale, strict=True):
        assert value == pytest.approx(number, rel=1e-9, abs=1e-9 * size)


def test_contraction_of_a_flow_has_its_check_values() -> None:
    assert kappa(0.6, 20) == pytest.approx(2.16, rel=1e-12)
    assert kappa(0.68, 20) == pytest.approx(2.5277866667, rel=1e-10)
    rho = 0.6922648491
    assert math.exp(kappa(0.6, 20) - kappa(0.68, 20)) == pytest.approx(rho, rel=1e-9)
    options = (FlowSchedule(), "conjugate", 20.0, 0.0, *double(0.4, 0.32), double(0.0)[0][None])
    assert float(increments(*options)[0].clean) == pytest.approx(rho, rel=1e-9)


@pytest.mark.parametrize("w", [1.0, 15.0])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.8), (0.4, 0.32), (0.1, 0.0)])
def test_contraction_with_noise_is_the_closed_one(t: float, s: float, w: float) -> None:
    std, values = 0.1, np.array([0.01, 0.1215, 0.25, 1.0])

    def kappa(u: float) -> Any:
        total = values**2 + std**2
        share = std**2 / total
        b = big_b(u)
        return -w / 2 * (b - share * np.log1p(total * math.expm1(b) / std**2))

    damping = torch.from_numpy(std**2 / values**2)
    ours, _ = increments(VPSchedule(), "conjugate", w, 0.0, *double(t, s), damping)
    exact = kappa(s) - kappa(t)
    # the closed form is a difference of logarithms of order 10
    assert (-ours.clean.log()).tolist() == pytest.approx(exact.tolist(), rel=1e-9, abs=1e-13)

    def density(u: float, value: float) -> float:
        share = value**2 * sigma(u) ** 2 / (value**2 * sigma(u) ** 2 + std**2)
        return -0.5 * w * beta(u) * mu(u) * share

    rate = integrated_rate(VPSchedule(), "conjugate", w, *double(t, s), damping)
    areas = [integral(lambda u, v=v: density(u, v), t, s) for v in values]
    assert rate.tolist() == pytest.approx(areas, rel=1e-9)
