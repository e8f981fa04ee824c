"""Transitions: the posterior of the forward process, and its marginals."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import InputError
from mdm import DDIM, Ancestral, Schedule, VPSchedule, descend
from tests.mdm.small import SCHEDULES, named


# the discrete chain
class Discrete(Schedule):
    """The discrete chain of 1000 rates as a schedule of times i / 1000."""

    def __init__(self) -> None:
        kept = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), dim=0)
        self.kept = torch.cat([kept.new_ones(1), kept])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.kept[torch.round(1000 * t).long()]
        return kept.sqrt(), (1 - kept).sqrt()


def test_stochastic_ddim_of_unit_stride_is_ancestral() -> None:
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    kept = torch.cat([beta.new_ones(1), torch.cumprod(1 - beta, dim=0)])
    levels = list(descend(DDIM(1000), Discrete(), ()))
    published = list(descend(Ancestral(), VPSchedule(), ()))
    for level, other in zip(levels, published, strict=True):
        i = 1000 - level.k
        ab, ab_s, b = kept[i], kept[i - 1], beta[i - 1]
        posterior = (b * ab_s.sqrt(), (1 - ab_s) * (1 - b).sqrt(), (1 - ab_s) * b)
        exact = [float(v / (1 - ab)) for v in posterior]
        exact[2] = math.sqrt(exact[2])
        # differences of numbers of order 1 over 1 - ab, which is at least 1e-4
        assert list(level.step) == pytest.approx(exact, rel=0, abs=1e-11)
        closed = math.sqrt(ab / ab_s) * (1 - ab_s) / math.sqrt(1 - ab)
        assert level.step.c2 * math.sqrt(1 - ab) == pytest.approx(float(closed), abs=1e-12)
        assert list(other.step[:2]) == pytest.approx(exact[:2], rel=0, abs=1e-11)


# transitions
@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_step_is_the_posterior_of_the_forward_process(schedule: Schedule) -> None:
    """Against the conditional of the joint Gaussian of (y_s, y_t) given y."""

    times = DDIM(steps=10).times(VPSchedule())
    assert times.dtype == torch.float64 and times.tolist() == pytest.approx(np.linspace(1, 0, 11))
    for t, s in itertools.pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        covariance = alpha_t / alpha_s * sigma_s**2  # of y_s and y_t
        c2 = covariance / sigma_t**2
        c1 = alpha_s - c2 * alpha_t
        variance = sigma_s**2 - c2 * covariance
        step = DDIM(eta=1).step(schedule, t, s)

        assert float(step.c1) == pytest.approx(float(c1), abs=1e-12)
        assert float(step.c2) == pytest.approx(float(c2), abs=1e-12)
        assert float(step.std) ** 2 == pytest.approx(float(variance), abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_step_keeps_the_marginals(schedule: Schedule, eta: float) -> None:
    times = DDIM(steps=7).times(VPSchedule())
    for t, s in itertools.pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        c1, c2, std = (float(c) for c in DDIM(eta=eta).step(schedule, t, s))

        assert c1 + c2 * float(alpha_t) == pytest.approx(float(alpha_s), abs=1e-12)
        spread = (c2 * float(sigma_t)) ** 2 + std**2
        assert spread == pytest.approx(float(sigma_s) ** 2, abs=1e-12)
    # the last step ends on the denoised field
    assert (c1, c2, std) == (1, 0, 0)


def test_published_chain_has_its_coefficients() -> None:
    chain = Ancestral()
    times = chain.times(VPSchedule())
    assert len(times) == 1001 and times[0] == 1 and times[-1] == 0
    assert float(times[-2]) == pytest.approx(1e-3)

    b = np.linspace(1e-4, 2e-2, 1000)
    kept = np.cumprod(1 - b)
    before = np.concatenate([[1.0], kept[:-1]])
    for i, (t, s) in zip(range(999, -1, -1), itertools.pairwise(times), strict=True):
        assert math.floor(999 * float(t)) == i
        step = [float(c) for c in chain.step(VPSchedule(), t, s)]
        variance = b[i] if i else b[1] * (1 - kept[0]) / (1 - kept[1])
        c1 = b[i] * math.sqrt(before[i]) / (1 - kept[i])
        c2 = (1 - before[i]) * math.sqrt(1 - b[i]) / (1 - kept[i])

        assert step == pytest.approx([c1, c2, math.sqrt(variance)], rel=1e-9, abs=1e-12)
        # a field without noise goes to one without noise
        assert c1 + c2 * math.sqrt(kept[i]) == pytest.approx(math.sqrt(before[i]))
    assert step[2] == pytest.approx(0.0074, abs=5e-5)
    assert step[:2] == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize("options", [{"steps": 1}, {"start": 0.4, "end": 0.5}, {"end": 0.0}])
def test_grid_that_has_no_room_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"DDIM expects (steps|end) in"):
        DDIM(**{"steps": 4, "end": 0.1, **options})  # type: ignore[arg-type]


def test_grid_is_uniform_in_the_logarithm_of_the_noise_down_to_its_end() -> None:
    schedule = VPSchedule()
    times = DDIM(5, start=0.8, end=0.1).times(schedule)
    assert len(times) == 6 and times[-1] == 0
    torch.testing.assert_close(times[[0, -2]], times.new_tensor([0.8, 0.1]), rtol=1e-6, atol=0)
    alpha, sigma = schedule(times[:-1])
    steps = (alpha.log() - sigma.log()).diff()
    torch.testing.assert_close(steps, steps[:1].expand(4), rtol=1e-5, atol=0)
