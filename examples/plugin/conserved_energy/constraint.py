r"""The energy of a frame, which stays the same."""

__all__ = ["ConservedEnergy"]

from torch import Tensor

from constraints import Constraint, Given, InputError


class ConservedEnergy(Constraint):
    r"""Creates the constraint that all frames of a field have the energy of the first one, where
    the energy of a frame is the mean of its squares.

    Arguments:
        time: The axis of `(B, C, *S)` along which the frames lie.
    """

    def __init__(self, time: int = -1) -> None:
        super().__init__()
        self.time = time

    def residual(
        self, x: Tensor, given: Given | None = None
    ) -> Tensor:  # (B, C, *S) -> (B, T - 1)
        energy = x.square().movedim(self.time, 1).flatten(2).mean(dim=2)
        return energy[:, 1:] - energy[:, :1]

    def check_shape(self, x: Tensor) -> None:
        if x.shape[self.time] < 2:
            raise InputError(f"ConservedEnergy expects 2 frames or more, got {tuple(x.shape)}.")
