r"""The scores of samples and of held-out data, by protocol and metric.

A small distance alone proves nothing: samples that are all the same field satisfy a constraint,
and so do the samples of an inverse map that has forgotten the data. The scores therefore hold
guards: the discrepancy, the spread and the power spectrum of samples against held-out data.
"""

__all__ = ["Scores"]

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from .metrics import MMD, Mean, Spectrum, Spread

GUARDS = {"mmd", "spread", "spectrum"}  # the metrics that compare samples with data


class Scores(nn.Module):
    r"""Creates the scores of a method: none of samples yet, and none of held-out data."""

    cycle: Mean
    floor: Mean

    def __init__(self) -> None:
        super().__init__()
        self.cycle, self.floor = Mean(), Mean()
        self.reset()

    def reset(self) -> None:
        r"""Forgets all fields."""
        self.cycle.reset()
        self.floor.reset()
        self.protocols: dict[str, dict[str, Metric]] = {}
        self.data: list[Tensor] = []

    def add(self, protocol: str, x_hat: Tensor, distance: Tensor, **numbers: Tensor) -> None:
        r"""Adds samples to a protocol.

        Arguments:
            protocol: The name of the protocol.
            x_hat: The samples, with shape `(B, C, *S)`.
            distance: The distances to the constraint, with shape `(B,)`.
            numbers: Further numbers per sample, each with shape `(B,)`.
        """
        if protocol not in self.protocols:
            metrics: dict[str, Metric] = {"distance": Mean(), "mmd": MMD(), "spread": Spread()}
            metrics |= {"spectrum": Spectrum()} if Spectrum.suits(x_hat) else {}
            metrics |= {key: Mean() for key in numbers}
            self.protocols[protocol] = {
                k: metric.to(x_hat.device) for k, metric in metrics.items()
            }
        metrics = self.protocols[protocol]
        for key in GUARDS & metrics.keys():
            metrics[key].update(x_hat, real=False)
        for key, values in {"distance": distance, **numbers}.items():
            metrics[key].update(values)

    def hold_out(self, x: Tensor, distance: Tensor, cycle: Tensor) -> None:
        r"""Adds held-out data.

        Arguments:
            x: The data, with shape `(B, C, *S)`.
            distance: The distances to the constraint, with shape `(B,)`.
            cycle: The cycle errors of the maps, with shape `(B,)`.
        """
        self.data.append(x)
        self.floor.update(distance)
        self.cycle.update(cycle)

    def compute(self) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
        r"""Yields the protocol, the name and the value of each metric of the samples."""
        data = torch.cat(self.data)
        for protocol, metrics in self.protocols.items():
            for key in GUARDS & metrics.keys():
                metrics[key].update(data, real=True)
            for key, metric in metrics.items():
                yield protocol, key, metric.compute()
