"""Noise schedules: signal, noise and the time of a ratio."""

import numpy as np
import pytest
import torch

from mdm import FlowSchedule, Schedule, VPSchedule
from tests.mdm.small import SCHEDULES, named


# schedules
@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_signal_falls_and_noise_rises(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha, sigma = schedule(t)

    assert alpha[0] == 1 and sigma[0] == 0 and alpha[-1] < 0.02 and sigma[-1] > 0.99
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    if not isinstance(schedule, FlowSchedule):
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-15)
    else:
        torch.testing.assert_close(alpha + sigma, torch.ones_like(t), rtol=0, atol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_schedule_is_precise_at_early_times(schedule: Schedule) -> None:
    t = torch.logspace(-6, -2, 9, dtype=torch.float64)
    for exact, single in zip(schedule(t), schedule(t.float()), strict=True):
        torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)


def test_schedule_is_that_of_the_discrete_chain() -> None:
    kept = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
    alpha, sigma = VPSchedule()(torch.arange(1, 1001, dtype=torch.float64) / 1000)

    assert np.abs(alpha.numpy() - np.sqrt(kept)).max() <= 1e-3
    assert np.abs(sigma.numpy() ** 2 - (1 - kept)).max() <= 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_time_of_a_ratio(schedule: Schedule) -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    alpha, sigma = schedule(t)
    ratio = alpha.log() - sigma.log()

    torch.testing.assert_close(schedule.invert(ratio), t, rtol=0, atol=1e-10)
    beyond = torch.tensor([50.0, -50.0], dtype=torch.float64)
    assert schedule.invert(beyond, 2e-3).tolist() == pytest.approx([2e-3, 1])
