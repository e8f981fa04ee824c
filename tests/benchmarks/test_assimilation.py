"""The reference posterior of Burgers assimilation: exact where the answer is known."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import benchmarks.assimilation.__main__ as burgers_posterior
from benchmarks.assimilation.__main__ import QUICK, configuration
from benchmarks.assimilation.laplace import (
    Chains,
    Laplace,
    Target,
    effective_size,
    gauss_newton,
    importance,
    sample,
    split_rhat,
)
from benchmarks.assimilation.problem import Assimilation, Gaussian, calibrate
from benchmarks.assimilation.scores import central, compare, energy, ranks
from constraints import InputError, derive_seed

STD = 0.3


BURGERS = Path("configs/burgers")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear() -> tuple[Target, Tensor, Tensor]:
    """Return two linear problems of 6 unknowns, their exact means and their covariance."""

    matrix, m = normal(9, 6), normal(9, 2, seed=1)
    cov = torch.linalg.inv(torch.eye(6) + matrix.T @ matrix / STD**2)
    return Target(lambda z: matrix @ z, m, STD, 6), cov @ matrix.T @ m / STD**2, cov


def banana() -> Target:
    """Return a problem of 2 unknowns whose posterior is bent."""

    def forward(z: Tensor) -> Tensor:
        return torch.stack([z[0] + z[1].square() / 2, z[1] - z[0].square() / 4])

    return Target(forward, torch.tensor([[1.0], [0.5]], dtype=torch.float64), 0.5, 2)


@pytest.fixture(scope="module")
def task() -> Assimilation:
    return Assimilation(configuration(BURGERS, "demo"), QUICK)


# the sampler
def test_laplace_is_exact_for_a_linear_problem() -> None:
    target, mean, cov = linear()
    laplace = gauss_newton(target)
    assert torch.allclose(laplace.mode, mean, atol=1e-10)
    assert torch.allclose(laplace.factor @ laplace.factor.mT, cov.expand(2, 6, 6), atol=1e-10)
    # weights of the exact posterior are equal
    _, weights = importance(target, laplace, 50, seed=0)
    assert torch.allclose(weights, torch.full_like(weights, 1 / 50), atol=1e-10)


def test_chains_have_the_moments_of_a_linear_problem() -> None:
    target, mean, cov = linear()
    laplace = gauss_newton(target)
    # away from the posterior in place and in shape, so that the chains have to find it
    wrong = Laplace(laplace.mode + 0.3, 1.5 * laplace.factor, laplace.slope)
    chains = sample(target, wrong, 32, 100, 200, seed=0)
    states = chains.z.permute(0, 3, 1, 2)
    watched = torch.cat([states, states.square()], dim=2)  # for the mean, and for the spread
    ess = effective_size(watched).min()
    assert ess > 1000 and split_rhat(watched).max() < 1.02
    assert chains.acceptance.min() > 0.7 and chains.acceptance.max() < 0.95
    z = states.flatten(0, 1)
    sd = cov.diagonal().sqrt()
    # 5 standard errors of a mean, and of a covariance of the two entries
    assert ((z.mean(dim=0) - mean).abs() < 5 * sd[:, None] / ess.sqrt()).all()
    for i in range(2):
        off = (z[:, :, i].T.cov() - cov).abs() / (sd[:, None] * sd)
        assert off.max() < 5 * math.sqrt(2 / ess)


def test_chains_and_weights_agree_with_a_grid() -> None:
    target = banana()
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).T
    density = (-target.potential(grid)).softmax(dim=0)
    mean = grid @ density
    second = grid.square() @ density

    laplace = gauss_newton(target)
    chains = sample(target, laplace, 64, 100, 200, seed=0)
    z = chains.z.permute(0, 3, 1, 2)[:, :, :, 0]
    drawn, weights = importance(target, laplace, 20000, seed=0)
    error = (second - mean.square()).sqrt() / effective_size(z).sqrt()
    weighted = drawn[:, 0] @ weights[0]
    # the mode is half a standard deviation away from the mean, the estimates within 5 errors
    assert (laplace.mode[:, 0] - mean).abs().max() > 20 * error.max()
    assert ((z.mean(dim=(0, 1)) - mean).abs() < 5 * error).all()
    assert torch.allclose(z.square().mean(dim=(0, 1)), second, rtol=0.05)
    assert torch.allclose(weighted, mean, atol=0.05)


def test_mode_has_no_gradient(task: Assimilation) -> None:
    target = task.target(task.measure(task.truth[:2]))
    laplace = gauss_newton(target)
    _, gradient = target.gradient(laplace.mode)
    assert laplace.slope.max() <= 1e-6
    assert torch.allclose(gradient.abs().amax(dim=0), laplace.slope, atol=1e-9)
    # and is lower than all around it
    around = laplace.place(0.1 * normal(task.points, 2 * 50))
    lowest = target.potential(laplace.mode).repeat_interleave(50)
    assert (target.potential(around) > lowest).all()


def test_jacobian_is_that_of_differences(task: Assimilation) -> None:
    target = task.target(task.measure(task.truth[:2]))
    z, v, h = normal(task.points, 2), normal(task.points, 2, seed=1), 1e-5
    f, slopes = target.jacobian(z)
    # the same sums in another order, as the batch is another
    assert torch.allclose(f, task.forward(z), rtol=0, atol=1e-12)
    central_difference = (task.forward(z + h * v) - task.forward(z - h * v)) / (2 * h)
    product = torch.einsum("pmk,kp->mp", slopes, v)
    # of the order of h², and of rounding over h
    assert torch.allclose(product, central_difference, atol=1e-8)


def test_effective_size_and_rhat_of_an_autoregression() -> None:
    rho, n, chains = 0.8, 2000, 16
    x = [normal(chains)]
    noise = normal(n, chains, seed=1)
    for k in range(n - 1):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise[k])
    series = torch.stack(x)
    # n C (1 - rho) / (1 + rho) of them; the estimate of the time itself is off by some per cent
    expected = n * chains * (1 - rho) / (1 + rho)
    assert float(effective_size(series)) == pytest.approx(expected, rel=0.15)
    assert float(split_rhat(series)) == pytest.approx(1, abs=0.02)
    # halves whose means differ by 2 standard deviations
    apart = normal(200, 8)
    apart[:, ::2] += 2
    # the variance of the means is 16 / 15 over that of the draws
    assert float(split_rhat(apart)) == pytest.approx(math.sqrt(1 + 16 / 15), rel=0.05)
    assert float(effective_size(apart)) < 20


def test_white_coordinates_pull_gradients() -> None:
    laplace = Laplace(normal(3, 2), normal(2, 3, 3, seed=1), torch.zeros(2))
    w, g = normal(3, 8, seed=2), normal(3, 8, seed=3)
    moved = laplace.place(w) - laplace.place(torch.zeros_like(w))
    assert torch.allclose((moved * g).sum(dim=0), (w * laplace.pull(g)).sum(dim=0))


# the problem
def test_fields_follow_from_their_first_frame(task: Assimilation) -> None:
    z = normal(task.points, 3)
    x = task.rollout(z)
    assert x.shape == (3, 1, task.points, task.frames)
    constraint = configuration(BURGERS, "demo")["data"]["init_args"]["constraint"]
    assert burgers_posterior.build_part(constraint)(x).max() < 1e-6
    assert torch.equal(x[:, 0, :, 0], task.prior(z).T.float())
    # frame after frame, as the measurement is laid out
    seen = task.forward(z).float().unflatten(0, (task.observed, task.points))
    assert torch.equal(seen, x[:, 0, :, : task.observed].permute(2, 1, 0))
    m = task.measure(task.truth[:3])
    assert torch.equal(task.target(m).m[: task.points].float(), m[:, 0, :, 0].T)


def test_prior_has_the_moments_of_its_frames() -> None:
    frames = normal(50, 4) @ normal(4, 4, seed=1) + 3
    prior = Gaussian.fit(frames)
    assert torch.allclose(prior.factor @ prior.factor.T, frames.T.cov())
    assert torch.allclose(prior(torch.zeros(4, 1).double())[:, 0], frames.mean(dim=0))


def test_measurement_is_that_of_the_test_stage(task: Assimilation) -> None:
    x = task.truth[:2]
    m = task.operator.measure(x, [derive_seed(0, "field", i) for i in range(2)])
    assert torch.equal(task.measure(x), m)


def test_measurement_of_other_frames_is_refused() -> None:
    config = configuration(BURGERS, "demo")
    config["model"]["init_args"]["operator"]["init_args"]["index"] = [0, 2]
    with pytest.raises(InputError, match="first frames"):
        Assimilation(config, QUICK)


@pytest.mark.slow
def test_reference_holds_fields_of_its_own_prior(task: Assimilation) -> None:
    truth = task.draw(60, "control")
    assert torch.isfinite(truth).all()
    rows, counts = calibrate(task, truth, QUICK, "control")
    for row in rows:
        # 4 standard errors over fields
        error = row["coverage"]["sd"] / math.sqrt(60)
        assert abs(row["coverage"]["value"] - 0.9) < 4 * error + 0.005
        error = row["square"]["sd"] / math.sqrt(60)
        assert abs(row["square"]["value"] - 1) < 4 * error + 0.02
    assert sum(counts) == pytest.approx(10, rel=1e-3)


# the comparison
def test_scores_of_known_gaussians() -> None:
    n, shape = 1000, (1, 8, 8)
    reference = normal(4000, *shape)
    same = compare(normal(n, *shape, seed=1), reference, normal(*shape, seed=2))
    # sqrt(1/n + 1/N), of 64 pixels; and spreads to 1 / sqrt(2 · 64 n)
    assert same["mean_error"] == pytest.approx(math.sqrt(1 / 1000 + 1 / 4000), rel=0.3)
    assert same["spread_ratio"] == pytest.approx(1, abs=0.02)
    assert abs(same["energy"]) < 2e-3
    # 4 standard deviations of the share of 64 pixels, and the 99.9 % point of Kolmogorov
    assert same["coverage"] == pytest.approx(0.9, abs=0.15)
    assert same["rank_ks"] < 1.95 / 8

    shifted = compare(2 * normal(n, *shape, seed=1) + 2, reference, torch.zeros(shape).double())
    assert shifted["mean_error"] == pytest.approx(2, rel=0.02)
    assert shifted["spread_ratio"] == pytest.approx(2, rel=0.02)
    assert shifted["coverage"] == 1  # 0 is one standard deviation away
    assert shifted["rank_ks"] > 0.5
    for metric in ("mean_error", "spread_ratio", "coverage"):
        assert len(shifted["frames"][metric]) == 8


def test_interval_of_few_samples_holds_nine_tenths() -> None:
    for n in (19, 32, 200):
        x = normal(n + 1, 40000)
        low, high = central(x[:n])
        held = ((low <= x[n]) & (x[n] <= high)).double().mean()
        # the spacing of order statistics bends between two of them; 4 errors are 0.006
        assert float(held) == pytest.approx(0.9, abs=0.01)
    with pytest.raises(InputError, match=r"\b19\b.*\b18\b"):
        central(x[:18])


def test_ranks_of_another_draw_are_uniform() -> None:
    x = normal(20, 20000)
    r = ranks(x[:19], x[19])
    assert sorted(set((20 * r - 0.5).round().int().tolist())) == list(range(20))
    # 5 standard errors of a mean of uniform numbers
    assert float(r.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 20000))


def test_energy_of_points_far_apart() -> None:
    near = normal(50, 3)
    # distances within are negligible beside those between, and for one point twice the distance
    assert energy(near, near + 1e4) == pytest.approx(1, abs=1e-3)
    line = torch.tensor([[0.0], [2.0]])
    # between: 1, within: 2 and 2 without bias
    assert energy(line, line + 0.0) == pytest.approx(1 - 4 / (2 * 1.0))


def test_chains_report_what_they_spent() -> None:
    target, _, _ = linear()
    chains = sample(target, gauss_newton(target), 3, 4, 5, seed=0, leaps=2)
    assert isinstance(chains, Chains) and chains.z.shape == (5, 6, 2, 3)
    assert chains.gradients == 2 * 9
    again = sample(target, gauss_newton(target), 3, 4, 5, seed=0, leaps=2)
    assert torch.equal(chains.z, again.z)


def test_quick_run(tmp_path: Path) -> None:
    burgers_posterior.main(["--scale", "demo", "--quick", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["method"], row["metric"]): row["value"] for row in results["rows"]}
    assert rows["exact samples", "mean_error"] < 1 < rows["prior samples", "mean_error"]
    assert rows["exact samples", "energy"] < rows["prior samples", "energy"] / 5
    assert ("reference", "mean_error") not in rows and ("reference", "coverage") in rows
    assert results["observed"] == 4 and "--scale demo" in results["command"]
    assert "| exact samples |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "posterior.png").stat().st_size > 1000


def test_solvers_of_another_run_are_added(tmp_path: Path) -> None:
    ours = {"problem": "configs/burgers", "fields": 2}
    row = {"method": "exact samples", "metric": "energy", "value": 0.0}
    others = {"DPS, data space": 1.0, "exact samples": 5.0}
    run = {
        **{"command": "python a", "cpu_minutes": 3.0, "problem": "configs/burgers"},
        **{"config": {"fields": 2}, "frames": {}},
        "rows": [{**row, "method": k, "value": v} for k, v in others.items()],
    }
    (tmp_path / "results.json").write_text(json.dumps(run))
    results: dict[str, Any] = {"rows": [row], "frames": {}, "added": []}
    burgers_posterior.add(results, burgers_posterior.earlier(tmp_path, ours))
    # what both have is that of this run
    assert [(r["method"], r["value"]) for r in results["rows"]] == [
        ("exact samples", 0.0),
        ("DPS, data space", 1.0),
    ]
    assert results["added"] == [{"command": "python a", "cpu_minutes": 3.0}]
    with pytest.raises(InputError, match=r"\b2\b.*\b8\b"):
        burgers_posterior.earlier(tmp_path, {**ours, "fields": 8})
    with pytest.raises(InputError, match=r"nowhere.*--add"):
        burgers_posterior.earlier(tmp_path / "nowhere", ours)


def test_maps_without_a_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        burgers_posterior.main(["--maps", "last.ckpt"])
    assert "belong together" in capsys.readouterr().err
