r"""Priors whose denoiser is known in closed form, against which methods can be judged exactly."""

__all__ = ["GaussianDenoiser", "MixtureDenoiser"]

from collections.abc import Sequence

import torch
from torch import Tensor

from constraints import InputError, Real, check_fields, check_result, noise, uniform

from .denoiser import Denoiser
from .schedule import Schedule, VPSchedule


class GaussianDenoiser(Denoiser):
    r"""Creates the exact denoiser of fields that are cut, once flattened, into blocks of n
    entries, each an independent draw from :math:`\mathcal{N}(\mu, \Sigma)`:

    .. math::
        E[y \mid y_t] = \mu + \alpha \Sigma (\alpha^2 \Sigma + \sigma^2 I)^{-1} (y_t - \alpha \mu).

    Arguments:
        cov: The covariance :math:`\Sigma` of a block, with shape `(n, n)`.
        mean: The mean :math:`\mu` of a block, a number or with shape `(n,)`.
        schedule: The noise schedule; `VPSchedule()` if missing.
    """

    cov: Tensor
    mean: Tensor
    variance: Tensor
    basis: Tensor

    def __init__(
        self, cov: Tensor, mean: Tensor | Real = 0.0, schedule: Schedule | None = None
    ) -> None:
        super().__init__(schedule or VPSchedule())
        check_result("The covariance", cov, len(cov), len(cov))
        variance, basis = torch.linalg.eigh(cov)
        if variance[0] < -1e-4 * variance[-1]:
            raise InputError(f"A covariance has no negative eigenvalue, got {float(variance[0])}.")
        self.register_buffer("cov", cov)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=cov.dtype, device=cov.device))
        self.register_buffer("variance", variance.clamp(min=0))
        self.register_buffer("basis", basis)

    def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (a.reshape(-1, 1, 1) for a in self.schedule(t.to(self.cov)))
        n = len(self.cov)
        check_fields(self, y_t, f"fields of blocks of {n} numbers", y_t[0].numel() % n == 0)
        blocks = y_t.reshape(len(y_t), -1, len(self.cov))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        z = (blocks - alpha * self.mean) @ self.basis
        return (self.mean + (gain * z) @ self.basis.T).reshape(y_t.shape)


class MixtureDenoiser(Denoiser):
    r"""Creates the exact denoiser of fields of n entries, of any shape, that are drawn from a
    mixture of Gaussians :math:`\sum_k w_k \mathcal{N}(\mu_k, \Sigma_k)`:

    .. math::
        E[y \mid y_t] = \sum_k r_k \left(\mu_k + \alpha \Sigma_k C_k^{-1} (y_t - \alpha \mu_k)
        \right), \quad C_k = \alpha^2 \Sigma_k + \sigma^2 I, \quad
        r_k \propto w_k \, \mathcal{N}(y_t; \alpha \mu_k, C_k).

    Arguments:
        weights: The weights :math:`w_k`, with shape `(K,)`, not negative. They are divided by
            their sum.
        means: The means :math:`\mu_k`, with shape `(K, n)`.
        covs: The covariances :math:`\Sigma_k`, with shape `(K, n, n)`, which may be singular.
        schedule: The noise schedule; `VPSchedule()` if missing.

    Raises:
        ValueError: If the shapes do not belong together, or the weights are no weights.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor
    variances: Tensor
    bases: Tensor

    def __init__(
        self, weights: Tensor, means: Tensor, covs: Tensor, schedule: Schedule | None = None
    ) -> None:
        super().__init__(schedule or VPSchedule())
        k, n = means.shape
        if weights.shape != (k,) or covs.shape != (k, n, n):
            shapes = [tuple(part.shape) for part in (weights, means, covs)]
            raise InputError(f"MixtureDenoiser expects (K,), (K, n) and (K, n, n), got {shapes}.")
        if not (weights >= 0).all() or not 0 < float(weights.sum()) < float("inf"):
            got = weights.tolist()
            raise InputError(
                f"MixtureDenoiser expects weights from 0 on with a positive sum, got {got}."
            )
        variances, bases = torch.linalg.eigh(covs)
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("means", means)
        self.register_buffer("covs", covs)
        self.register_buffer("variances", variances.clamp(min=0))
        self.register_buffer("bases", bases)

    def denoise(self, y_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (a.reshape(-1, 1, 1) for a in self.schedule(t.to(self.means)))
        variance = alpha**2 * self.variances + sigma**2
        centred = y_t.reshape(len(y_t), 1, self.means.shape[1]) - alpha * self.means
        z = torch.einsum("bki,kij->bkj", centred, self.bases)
        each = self.means + torch.einsum(
            "bkj,kij->bki", alpha * self.variances / variance * z, self.bases
        )
        log_density = -0.5 * (z**2 / variance + variance.log()).sum(dim=2)
        share = torch.softmax(self.weights.log() + log_density, dim=1)
        return (share.unsqueeze(2) * each).sum(dim=1).reshape(y_t.shape)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        r"""Draws fields, flattened.

        Arguments:
            seeds: One seed per sample; a sample depends on its own seed alone.

        Returns:
            The samples, with shape `(B, n)`.
        """
        share = uniform([(seed, "component") for seed in seeds], (1,), self.weights)
        ends = self.weights.cumsum(dim=0)
        component = (share >= ends[:-1] / ends[-1]).sum(dim=1)
        z = noise([(seed, "entries") for seed in seeds], self.means.shape[1:], self.means)
        y = torch.empty_like(z)
        for k in component.unique().tolist():
            rows = component == k
            y[rows] = self.means[k] + (self.variances[k].sqrt() * z[rows]) @ self.bases[k].T
        return y

    def condition(self, matrix: Tensor, m: Tensor, std: float) -> "MixtureDenoiser":
        r"""Returns the exact posterior of the linear measurement :math:`m = H y + s n`, which is
        again a mixture. With :math:`S_k = H \Sigma_k H^T + s^2 I` and
        :math:`G_k = \Sigma_k H^T S_k^{-1}` it has

        .. math::
            w_k' \propto w_k \, \mathcal{N}(m; H \mu_k, S_k), \quad
            \mu_k' = \mu_k + G_k (m - H \mu_k), \quad
            \Sigma_k' = (I - G_k H) \Sigma_k (I - G_k H)^T + s^2 G_k G_k^T.

        References:
            Pattern Recognition and Machine Learning (Bishop, 2006), section 2.3.3.

        Arguments:
            matrix: The matrix H, with shape `(r, n)`.
            m: The measurement, with shape `(r,)`.
            std: The std s of its noise; with 0 the samples satisfy H y = m.

        Raises:
            ValueError: If the measurement has no density under a component, as where s is 0 and
                the rows of H depend on each other.
        """
        cross = self.covs @ matrix.T
        inner = matrix @ cross
        inner = (inner + inner.mT) / 2 + std**2 * torch.eye(len(m)).to(inner)
        factor, failed = torch.linalg.cholesky_ex(inner)
        if failed.any():
            raise InputError("A measurement without noise needs independent rows: give it noise.")
        gain = torch.cholesky_solve(cross.mT, factor).mT
        error = m - self.means @ matrix.T
        white = torch.linalg.solve_triangular(factor, error.unsqueeze(2), upper=False)
        log_volume = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        log_density = -0.5 * white.square().sum(dim=(1, 2)) - log_volume
        left = torch.eye(matrix.shape[1]).to(inner) - gain @ matrix
        covs = left @ self.covs @ left.mT + std**2 * gain @ gain.mT
        return MixtureDenoiser(
            weights=torch.softmax(self.weights.log() + log_density, dim=0),
            means=self.means + (gain @ error.unsqueeze(2)).squeeze(2),
            covs=(covs + covs.mT) / 2,
            schedule=self.schedule,
        )
