"""The exact priors: Gaussians and mixtures of them, against their own densities."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mdm import (
    CosineSchedule,
    FlowSchedule,
    GaussianDenoiser,
    MixtureDenoiser,
    Schedule,
    VPSchedule,
)

SCHEDULES = (VPSchedule(), CosineSchedule(), FlowSchedule())


TIMES = torch.tensor([1e-3, 0.01, 0.1, 0.3, 0.6, 0.98], dtype=torch.float64)


by_name = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def covariances(k: int, n: int) -> Tensor:
    root = normal(k, n, n, seed=1) / math.sqrt(n)
    return 0.3 * root @ root.mT + 0.02 * torch.eye(n, dtype=torch.float64)


def mixture(k: int = 3, n: int = 4, schedule: Schedule | None = None) -> MixtureDenoiser:
    weights = torch.arange(1, k + 1, dtype=torch.float64)
    return MixtureDenoiser(weights, normal(k, n, seed=2), covariances(k, n), schedule)


def density(prior: MixtureDenoiser, t: Tensor | None = None) -> MixtureSameFamily:
    """The density of y_t, or of y itself."""

    alpha, sigma = prior.schedule(t) if t is not None else (torch.ones(()), torch.zeros(()))
    eye = torch.eye(prior.means.shape[1], dtype=torch.float64)
    covs = alpha**2 * prior.covs + sigma**2 * eye
    return MixtureSameFamily(
        Categorical(prior.weights), MultivariateNormal(alpha * prior.means, covs)
    )


# denoising
@by_name
def test_mixture_is_tweedie(schedule: Schedule) -> None:
    prior = mixture(schedule=schedule)
    for t in TIMES:
        alpha, sigma = schedule(t)
        y_t = (alpha * prior.means.repeat(4, 1) + sigma * normal(12, 4)).requires_grad_()
        (score,) = torch.autograd.grad(density(prior, t).log_prob(y_t).sum(), y_t)
        with torch.no_grad():
            y_hat = prior(y_t, t)

        # eps = -sigma score, and the estimate is (y_t - sigma eps) / alpha
        torch.testing.assert_close(
            (y_t - alpha * y_hat) / sigma, -sigma * score, rtol=1e-10, atol=1e-10
        )


@by_name
def test_gaussian_is_tweedie_in_each_block(schedule: Schedule) -> None:
    cov, mean = covariances(1, 3)[0], normal(3, seed=4)
    prior = GaussianDenoiser(cov, mean, schedule)
    y_t = normal(len(TIMES), 2, 5, 3).requires_grad_()
    y_hat = prior(y_t, TIMES)

    assert y_hat.shape == y_t.shape
    for i, t in enumerate(TIMES):
        alpha, sigma = schedule(t)
        eye = torch.eye(3, dtype=torch.float64)
        marginal = MultivariateNormal(alpha * mean, alpha**2 * cov + sigma**2 * eye)
        (score,) = torch.autograd.grad(marginal.log_prob(y_t[i]).sum(), y_t)
        eps = (y_t[i] - alpha * y_hat[i]) / sigma
        torch.testing.assert_close(eps, -sigma * score[i], rtol=1e-10, atol=1e-10)


@by_name
def test_jacobian_is_symmetric_and_the_posterior_covariance(schedule: Schedule) -> None:
    prior = mixture(schedule=schedule)
    eye = torch.eye(4, dtype=torch.float64)
    for t in TIMES:
        alpha, sigma = schedule(t)
        y_t = alpha * prior.means[0] + sigma * normal(4, seed=5)
        jacobian = torch.autograd.functional.jacobian(lambda y, t=t: prior(y[None], t)[0], y_t)
        # y_t is a measurement of y: the posterior is a mixture, with this covariance
        posterior = prior.condition(float(alpha) * eye, y_t, float(sigma))
        mean = posterior.weights @ posterior.means
        second = posterior.covs + posterior.means[:, :, None] * posterior.means[:, None]
        cov = torch.einsum("k,kij->ij", posterior.weights, second) - torch.outer(mean, mean)

        torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(prior(y_t[None], t)[0], mean, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(
            sigma**2 / alpha * jacobian, cov, rtol=1e-7, atol=1e-10, check_dtype=False
        )


@by_name
def test_mixture_of_one_is_the_gaussian(schedule: Schedule) -> None:
    cov, mean = covariances(1, 4)[0], normal(4, seed=2)
    gaussian = GaussianDenoiser(cov, mean, schedule)
    one = MixtureDenoiser(torch.ones(1).double(), mean[None], cov[None], schedule)
    y_t = normal(len(TIMES) + 1, 1, 2, 2)
    t = torch.cat([TIMES, torch.ones(1)])

    torch.testing.assert_close(one(y_t, t), gaussian(y_t, t), rtol=0, atol=1e-12)


def test_estimate_at_the_end_of_a_flow_is_the_mean() -> None:
    prior = mixture(schedule=FlowSchedule())
    y_t = normal(5, 4, 1, 1).requires_grad_()
    y_hat = prior(y_t, torch.ones(()))
    (gradient,) = torch.autograd.grad(y_hat.sum(), y_t)

    mean = (prior.weights @ prior.means).expand(5, 4)
    torch.testing.assert_close(y_hat.flatten(1), mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


def test_weight_of_zero_is_no_component() -> None:
    prior = mixture(k=2)
    weights = torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64)
    means = torch.cat([normal(1, 4, seed=9), prior.means])
    more = MixtureDenoiser(weights, means, torch.cat([prior.covs[:1], prior.covs]))
    y_t = normal(3, 4).requires_grad_()
    y_hat = more(y_t, TIMES[1:4])
    (gradient,) = torch.autograd.grad(y_hat.sum(), y_t)

    torch.testing.assert_close(y_hat, prior(y_t, TIMES[1:4]), rtol=0, atol=1e-13)
    assert torch.isfinite(gradient).all()
    assert torch.equal(more.sample(range(50)), prior.sample(range(50)))


def test_estimate_stays_finite_far_away() -> None:
    prior = mixture().float()
    y_t = (1e4 * normal(2, 4).float()).requires_grad_()
    y_hat = prior(y_t, torch.tensor([1e-3, 0.9]))
    (gradient,) = torch.autograd.grad(y_hat.sum(), y_t)

    assert torch.isfinite(y_hat).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prior_works_in_its_own_precision(dtype: torch.dtype) -> None:
    prior = mixture().to(dtype)
    gaussian = GaussianDenoiser(covariances(1, 4)[0], 0.5).to(dtype)

    for denoiser in (prior, gaussian):
        assert denoiser.template.dtype == dtype
        y_hat = denoiser(normal(2, 4, 1, 1).to(dtype), torch.tensor(0.3, dtype=torch.float64))
        assert y_hat.dtype == dtype and y_hat.shape == (2, 4, 1, 1)
    assert prior.sample([0, 1]).dtype == dtype


def test_estimate_does_not_depend_on_the_batch() -> None:
    prior = mixture()
    y_t, t = normal(6, 4, 1, 1), TIMES
    together = prior(y_t, t)

    for i in range(6):
        alone = prior(y_t[i : i + 1], t[i])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-13)


# sampling
def test_samples_have_the_moments_of_the_mixture() -> None:
    prior = mixture(n=3)
    y = prior.sample(range(20_000))
    mean = prior.weights @ prior.means
    second = prior.covs + prior.means[:, :, None] * prior.means[:, None]
    cov = torch.einsum("k,kij->ij", prior.weights, second) - torch.outer(mean, mean)

    # five standard errors
    assert ((y.mean(dim=0) - mean).abs() <= 5 * (cov.diagonal() / 20_000).sqrt()).all()
    products = (y - mean)[:, :, None] * (y - mean)[:, None]
    error = products.std(dim=0) / math.sqrt(20_000)
    assert ((products.mean(dim=0) - cov).abs() <= 5 * error).all()
    # each weight is the share of the samples that its component claims
    each = density(prior).component_distribution.log_prob(y[:, None]) + prior.weights.log()
    share = torch.softmax(each, dim=1)
    assert ((share.mean(dim=0) - prior.weights).abs() <= 5 * share.std(dim=0) / 141).all()


def test_sample_depends_on_its_seed_alone() -> None:
    prior = mixture()
    together = prior.sample(range(10))

    for i in (0, 3, 9):
        torch.testing.assert_close(prior.sample([i])[0], together[i], rtol=0, atol=1e-14)
    assert not torch.isclose(together[:1], together[1:]).all(dim=1).any()


# conditioning
def test_posterior_of_a_gaussian_is_the_textbook_one() -> None:
    cov, mean = covariances(1, 4)[0], normal(4, seed=2)
    matrix, m, std = normal(2, 4, seed=6), normal(2, seed=7), 0.3
    one = MixtureDenoiser(torch.ones(1).double(), mean[None], cov[None])
    posterior = one.condition(matrix, m, std)
    precision = cov.inverse() + matrix.T @ matrix / std**2
    expected = precision.inverse() @ (cov.inverse() @ mean + matrix.T @ m / std**2)

    torch.testing.assert_close(posterior.covs[0], precision.inverse(), rtol=0, atol=1e-11)
    torch.testing.assert_close(posterior.means[0], expected, rtol=0, atol=1e-11)


def test_posterior_is_prior_times_likelihood() -> None:
    """On a grid in the plane, up to the one constant that makes it a density."""

    prior = mixture(n=2)
    matrix, m, std = normal(1, 2, seed=6), torch.tensor([0.4], dtype=torch.float64), 0.5
    posterior = prior.condition(matrix, m, std)
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis)
    likelihood = torch.exp(-0.5 * ((m - y @ matrix.T) / std).square().sum(dim=1))
    product = density(prior).log_prob(y).exp() * likelihood
    product = product / (product.sum() * 0.02**2)

    # the grid sum of smooth densities that vanish at the ends is exact
    torch.testing.assert_close(density(posterior).log_prob(y).exp(), product, rtol=0, atol=1e-9)
    assert (posterior.weights - prior.weights).abs().max() > 0.05
    assert posterior.schedule is prior.schedule


def test_posterior_agrees_with_importance_weights() -> None:
    prior = mixture()
    matrix, std = normal(2, 4, seed=6), 0.7
    m = matrix @ prior.means[0]
    posterior = prior.condition(matrix, m, std)
    y = prior.sample(range(20_000))
    weight = torch.exp(-0.5 * ((m - y @ matrix.T) / std).square().sum(dim=1))
    weight = weight / weight.sum()
    mean = weight @ y
    error = (weight[:, None] * (y - mean)).square().sum(dim=0).sqrt()

    assert ((posterior.weights @ posterior.means - mean).abs() <= 5 * error).all()


def test_measurement_without_noise_is_the_limit_and_is_kept() -> None:
    prior = mixture()
    matrix = normal(2, 4, seed=6)
    m = matrix @ prior.means[1] + 0.1
    exact, almost = prior.condition(matrix, m, 0.0), prior.condition(matrix, m, 1e-6)

    for name in ("weights", "means", "covs"):
        torch.testing.assert_close(getattr(exact, name), getattr(almost, name), rtol=0, atol=1e-8)
    y = exact.sample(range(200))
    # rounding leaves a variance of 1e-16 across the plane
    torch.testing.assert_close(y @ matrix.T, m.expand(200, 2), rtol=0, atol=1e-6)
    assert (torch.linalg.matrix_rank(torch.cov(y.T), rtol=1e-9)) == 2
    y_hat = exact(normal(3, 4), torch.tensor(0.4).double())
    torch.testing.assert_close(y_hat @ matrix.T, m.expand(3, 2), rtol=0, atol=1e-9)


def test_measurements_one_after_another_are_both_at_once() -> None:
    prior = mixture()
    matrix, m = normal(2, 4, seed=6), normal(2, seed=7)
    both = prior.condition(matrix, m, 0.2)
    twice = prior.condition(matrix[:1], m[:1], 0.2).condition(matrix[1:], m[1:], 0.2)

    for name in ("weights", "means", "covs"):
        torch.testing.assert_close(getattr(both, name), getattr(twice, name), rtol=0, atol=1e-10)


# mistakes
def test_mistakes_are_answered_in_sentences() -> None:
    prior = mixture()
    row = normal(1, 4)

    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        MixtureDenoiser(torch.ones(2), torch.zeros(3, 4), torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="weights"):
        MixtureDenoiser(torch.tensor([-1.0, 2.0]), prior.means[:2], prior.covs[:2])
    with pytest.raises(ValueError, match="rows"):
        prior.condition(torch.cat([row, 0 * row]), torch.zeros(2).double(), 0.0)
