r"""The costs of samples: calls and vector-Jacobian products of the denoiser, seconds and counted
operations."""

__all__ = ["SamplingCosts"]

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..training.operations import CountCalls, CountFlops

T = TypeVar("T")


class SamplingCosts:
    r"""Creates the account of the costs of samples.

    Arguments:
        device: The device on which the samples are made.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.samples = self.calls = self.vjps = 0
        self.seconds = self.flops_per_sample = 0.0

    def count(self, denoiser: nn.Module, seeds: list[int], make: Callable[[list[int]], T]) -> T:
        r"""Makes samples and adds the costs of the samples.

        Every sample takes the same number of operations. The operations are counted on the first
        sample alone, before any sample is timed, since counting takes time.

        Arguments:
            denoiser: The denoiser.
            seeds: The seeds of the samples.
            make: Makes the samples of some seeds.

        Returns:
            The samples, as `make` returns them.
        """
        if not self.samples:
            with CountFlops() as counter:
                make(seeds[:1])
            self.flops_per_sample = float(counter.flops)
        start = time.perf_counter()
        with CountCalls(denoiser) as counted:
            made = make(seeds)
        if self.device.type == "cuda":  # a call returns before its work is done
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - start
        # one call serves all samples of a batch
        n = len(seeds)
        self.calls += counted.calls * n
        self.vjps += counted.vjps * n
        self.samples += n
        return made

    def per_sample(self, add: Callable[[Tensor], Tensor]) -> tuple[int, dict[str, float]]:
        r"""Returns the number of samples and the costs of one sample, none if there is no sample.

        Arguments:
            add: Adds a tensor over all processes.
        """
        spent = [self.samples, self.calls, self.vjps, self.seconds]
        samples, *sums = add(torch.tensor(spent, dtype=torch.float64)).tolist()
        if not (n := int(samples)):
            return 0, {}
        costs = dict(zip(("calls", "vjps", "seconds"), (s / n for s in sums), strict=True))
        return n, costs | {"flops": self.flops_per_sample}
