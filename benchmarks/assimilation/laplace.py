r"""Samples of a posterior in a few unknowns, in coordinates in which the prior is white,

.. math:: U(z) = |z|^2 / 2 + |m - F(z)|^2 / 2 \sigma^2, \quad p(z \mid m) \propto e^{-U(z)}.

Gauss-Newton finds the mode, and the Gaussian of Laplace there makes the posterior about white once
more. In the coordinates of the latter, a handful of leapfrog steps of Hamiltonian Monte Carlo give
a proposal that is nearly independent of where it came from; the test of Metropolis makes the
result exact, however good or bad that Gaussian is. Importance weights on the Gaussian itself are
a second estimate that shares nothing with the chains.

States are columns: `(k, B)` are B states of k unknowns. Problems that differ in their measurement
alone go side by side, and so do the chains of each; the chains of one problem are neighbours.
"""

__all__ = [
    "Chains",
    "Laplace",
    "Target",
    "effective_size",
    "gauss_newton",
    "importance",
    "sample",
    "split_rhat",
]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from constraints import generator


class Target:
    r"""Creates the potentials of P problems.

    Arguments:
        forward: The map F, from `(k, B)` to noiseless measurements `(M, B)`, column by column.
        m: The measurements, with shape `(M, P)`.
        std: The std of their noise.
        unknowns: The number k.
    """

    def __init__(
        self, forward: Callable[[Tensor], Tensor], m: Tensor, std: float, unknowns: int
    ) -> None:
        self.forward, self.m, self.std, self.unknowns = forward, m, std, unknowns

    def potential(self, z: Tensor) -> Tensor:
        r"""Returns U, with shape `(B,)`, of states `(k, B)`, where B is a multiple of P."""
        m = self.m.repeat_interleave(z.shape[1] // self.m.shape[1], dim=1)
        misfit = (m - self.forward(z)) / self.std
        return (z.square().sum(dim=0) + misfit.square().sum(dim=0)) / 2

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns U and its gradient, with shapes `(B,)` and `(k, B)`."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            u = self.potential(z)
            (gradient,) = torch.autograd.grad(u.sum(), z)
        return u.detach(), gradient

    def jacobian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns F of one state `(k, P)` of each problem, and its derivatives `(P, M, k)`."""
        k, p = z.shape
        tangents = torch.eye(k, dtype=z.dtype).repeat(1, p)
        columns = z.repeat_interleave(k, dim=1)
        f, slopes = torch.func.jvp(self.forward, (columns,), (tangents,))[:2]
        return f[:, ::k], slopes.unflatten(1, (p, k)).transpose(0, 1)


@dataclass(frozen=True)
class Laplace:
    r"""Gaussians around the modes of P posteriors.

    Arguments:
        mode: The modes, with shape `(k, P)`.
        factor: Factors of the covariances, the inverses of the Gauss-Newton Hessians, with shape
            `(P, k, k)`.
        slope: The largest entry of the gradient at each mode, with shape `(P,)`.
    """

    mode: Tensor
    factor: Tensor
    slope: Tensor

    def place(self, w: Tensor) -> Tensor:
        r"""Returns the states `(k, B)` of white coordinates `(k, B)`."""
        z = torch.einsum("pij,jpc->ipc", self.factor, self._split(w))
        return (self.mode[:, :, None] + z).flatten(1)

    def pull(self, gradient: Tensor) -> Tensor:
        r"""Returns gradients `(k, B)` with respect to the white coordinates."""
        return torch.einsum("pji,jpc->ipc", self.factor, self._split(gradient)).flatten(1)

    def _split(self, w: Tensor) -> Tensor:
        return w.unflatten(1, (self.mode.shape[1], -1))


@torch.no_grad()
def gauss_newton(
    target: Target, start: Tensor | None = None, steps: int = 30, tolerance: float = 1e-6
) -> Laplace:
    r"""Returns the Gaussians at the modes, found by Gauss-Newton from the mean of the prior, or
    from a start `(k, P)`; each step goes as far, in powers of 1/2, as lowers the potential
    most."""
    eye = torch.eye(target.unknowns, dtype=target.m.dtype)
    z = torch.zeros_like(target.m[:1]).repeat(target.unknowns, 1) if start is None else start
    lengths = torch.cat([0.5 ** torch.arange(11.0), torch.zeros(1)]).to(z)
    for step in range(steps + 1):
        f, slopes = target.jacobian(z)
        hessian = eye + slopes.mT @ slopes / target.std**2
        misfit = (f - target.m).T[:, :, None] / target.std**2
        gradient = z + (slopes.mT @ misfit)[:, :, 0].T
        slope = gradient.abs().amax(dim=0)
        if slope.max() <= tolerance or step == steps:
            break
        move = torch.linalg.solve(hessian, gradient.T).T
        tried = z[:, :, None] - move[:, :, None] * lengths
        potential = target.potential(tried.flatten(1)).unflatten(0, (-1, len(lengths)))
        best = potential.nan_to_num(nan=torch.inf).argmin(dim=1)
        z = z - move * lengths[best]
    lower = torch.linalg.cholesky(hessian)
    factor = torch.linalg.solve_triangular(lower.mT, eye.expand_as(hessian), upper=True)
    return Laplace(z, factor, slope)


@dataclass(frozen=True)
class Chains:
    r"""The points that the chains of P problems visited.

    Arguments:
        z: The states, with shape `(n, k, P, C)` for C chains of each problem.
        acceptance: The share of proposals accepted, with shape `(P,)`.
        step: The length of a leapfrog step, with shape `(P,)`.
        gradients: The number of gradients that each chain has taken.
    """

    z: Tensor
    acceptance: Tensor
    step: Tensor
    gradients: int


@torch.no_grad()
def sample(
    target: Target,
    laplace: Laplace,
    chains: int,
    warmup: int,
    draws: int,
    seed: int,
    leaps: int = 3,
    spread: float = 1.5,
) -> Chains:
    r"""Runs Hamiltonian Monte Carlo in the white coordinates of the Gaussians. The length of a
    step is tuned in the warm-up alone, for each problem, until 80 % of proposals are accepted.

    Arguments:
        target: The problems.
        laplace: The Gaussians.
        chains: The number of chains of each problem.
        warmup: The number of proposals at the beginning that are forgotten.
        draws: The number of proposals after them, whose states are kept.
        seed: The seed.
        leaps: The number of leapfrog steps of a proposal. With 64 unknowns a step is tuned to
            about 0.5, and three of them are a quarter of an orbit. Half an orbit would end at
            the mirror image, which is good for a mean and useless for a spread.
        spread: The std of the starts in those coordinates: wider than 1, so that chains that have
            not met yet are told by `split_rhat`.
    """
    k, p = laplace.mode.shape
    random = generator("hmc", seed)
    shape = (k, p * chains)

    def normal() -> Tensor:
        return torch.randn(shape, generator=random, dtype=laplace.mode.dtype)

    def slope(w: Tensor) -> tuple[Tensor, Tensor]:
        u, gradient = target.gradient(laplace.place(w))
        return u, laplace.pull(gradient)

    w = spread * normal()
    u, force = slope(w)
    step = torch.full((p,), 0.4, dtype=w.dtype)
    kept, accepted = [], torch.zeros_like(step)
    for i in range(warmup + draws):
        # a length that differs from chain to chain, so that no orbit closes
        jitter = 0.8 + 0.4 * torch.rand(shape[1], generator=random, dtype=w.dtype)
        h = step.repeat_interleave(chains) * jitter
        start = momentum = normal()
        w_new, u_new, force_new = w, u, force
        for _ in range(leaps):
            momentum = momentum - h / 2 * force_new
            w_new = w_new + h * momentum
            u_new, force_new = slope(w_new)
            momentum = momentum - h / 2 * force_new
        energy = u_new - u + (momentum.square() - start.square()).sum(dim=0) / 2
        chance = (-energy).exp().clamp(max=1).nan_to_num(nan=0.0)
        moved = torch.rand(shape[1], generator=random, dtype=w.dtype) < chance
        w, force = torch.where(moved, w_new, w), torch.where(moved, force_new, force)
        u = torch.where(moved, u_new, u)
        mean = chance.unflatten(0, (p, chains)).mean(dim=1)
        if i < warmup:
            step = step * torch.exp((mean - 0.8) / (1 + i) ** 0.6)
        else:
            accepted += mean / draws
            kept.append(laplace.place(w).unflatten(1, (p, chains)))
    return Chains(torch.stack(kept), accepted, step, leaps * (warmup + draws))


@torch.no_grad()
def importance(target: Target, laplace: Laplace, n: int, seed: int) -> tuple[Tensor, Tensor]:
    r"""Returns n states of each Gaussian, with shape `(k, P, n)`, and the weights that make them a
    sample of the posterior, with shape `(P, n)` and a sum of 1."""
    k, p = laplace.mode.shape
    random = generator("importance", seed)
    w = torch.randn((k, p * n), generator=random, dtype=laplace.mode.dtype)
    z = laplace.place(w)
    excess = w.square().sum(dim=0) / 2 - target.potential(z)
    weights = excess.nan_to_num(nan=-torch.inf).unflatten(0, (p, n)).softmax(dim=1)
    return z.unflatten(1, (p, n)), weights


def split_rhat(x: Tensor) -> Tensor:
    r"""Returns the potential scale reduction of halved chains, 1 where they agree.

    References:
        Bayesian Data Analysis, 3rd edition, section 11.4 (Gelman et al., 2013)
        http://www.stat.columbia.edu/~gelman/book/

    Arguments:
        x: The states, with shape `(n, C, *)`.
    """
    half = len(x) // 2
    x = torch.cat([x[:half], x[half : 2 * half]], dim=1)
    within = x.var(dim=0).mean(dim=0)
    return ((half - 1) / half + x.mean(dim=0).var(dim=0) / within).sqrt()


def effective_size(x: Tensor) -> Tensor:
    r"""Returns the number of independent draws that the mean over all chains is worth, at most
    the number of draws, by the sums of neighbouring autocorrelations up to the first negative one.

    References:
        Practical Markov Chain Monte Carlo (Geyer, 1992)
        https://doi.org/10.1214/ss/1177011137

    Arguments:
        x: The states, with shape `(n, C, *)`.
    """
    n, chains = x.shape[:2]
    centred = x - x.mean(dim=0)
    power = torch.fft.rfft(centred, n=2 * n, dim=0).abs().square()
    covariance = torch.fft.irfft(power, n=2 * n, dim=0)[:n].mean(dim=1) / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (x.mean(dim=0).var(dim=0) if chains > 1 else 0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1
    pairs = rho[: n // 2 * 2].unflatten(0, (-1, 2)).sum(dim=1)
    pairs = pairs * (pairs > 0).cumprod(dim=0)
    time = 2 * pairs.cummin(dim=0).values.sum(dim=0) - 1
    return n * chains / time.clamp(min=1)
