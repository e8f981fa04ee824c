r"""An operator on data space, pulled back to mirror space."""

__all__ = ["Pullback"]

from torch import Tensor

from constraints import Given
from namm import Mirror

from .base import Operator


class Pullback(Operator):
    r"""Creates the operator :math:`A \circ f` on mirror space.

    Arguments:
        operator: The operator A on data space.
        mirror: The maps. The operator uses the inverse map f, and its first guess the map g.
    """

    def __init__(self, operator: Operator, mirror: Mirror) -> None:
        super().__init__(operator.std)
        self.operator, self.mirror = operator, mirror
        self.observes = operator.observes

    def forward(self, y: Tensor) -> Tensor:
        return self.predict(y)[0]

    def predict(self, y: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor]:
        return self.operator.predict(self.mirror.inverse(y), given)

    def guess(self, m: Tensor, sigma: float) -> Tensor:
        y: Tensor = self.mirror(self.operator.guess(m, sigma))
        return y
