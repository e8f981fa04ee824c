"""Constraints that each break one promise, for the conformance kit to find."""

import torch
from torch import Tensor, nn

from constraints import Constraint, noise

SHAPE = (1, 6, 8)


def gaussian(*shape: int) -> Tensor:
    return noise([(0, i) for i in range(4)], shape)


# broken constraints
class Mean(Constraint):
    """Fields whose numbers have the mean 0: the sound one that the others spoil."""

    def residual(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(dim=1, keepdim=True)


class Scalar(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean().abs()


class Column(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x).abs()


class Number(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return float(x.mean())  # type: ignore[return-value]


class Float32(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class Weights32(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.ones(x[0].numel(), 1)


class Numpy(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().reshape(len(x), -1).mean(axis=1, keepdims=True))


class Detached(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class HalfDetached(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) * (1 + super().residual(x).detach())


class Steps(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual((8 * x).round() / 8 + 0 * x)


class Root(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().residual(x).square().sum(dim=1).sqrt()


class Logarithm(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x).log1p() + super().residual(x - 2).log()


class Signed(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x)[:, 0]


class Offset(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) - 3


class BatchMean(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) - super().residual(x).mean()


class BatchScale(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) / x.detach().std()


class Leaking(Mean):
    def residual(self, x: Tensor) -> Tensor:
        other = super().residual(x).mean()
        return super().residual(x) + other - other.detach()


class BatchNorm(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(self.norm(x) ** 3)


class Random(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) * torch.rand(())


class Dropout(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(nn.functional.dropout(x, 0.2, self.training))


class Modes(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return (1 + self.training) * super().residual(x)


class Counting(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def residual(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().residual(x)


class Trainable(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def residual(self, x: Tensor) -> Tensor:
        return self.weight * super().residual(x)


class Blind(Mean):
    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x - x)


class OtherResidual(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().residual(x)[:, 0].abs()

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) + 1


class WrongResidual(OtherResidual):
    def residual(self, x: Tensor) -> Tensor:
        return x.mean()


class OneDtype(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("target", torch.zeros(()))

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x.lerp(self.target.expand_as(x), 0.5))


def centred() -> Tensor:
    x = gaussian(*SHAPE)
    return x - x.mean(dim=(2, 3), keepdim=True)
