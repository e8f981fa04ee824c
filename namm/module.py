r"""The stage that trains the maps, and fine-tunes the inverse map."""

__all__ = ["NAMM"]


from typing import Any, Self

import torch
from torch import Tensor

from constraints import Batch, Constraint, InputError, Natural, NonNegativeFloat, Seed

from .evaluation.metrics import ConstraintDistance
from .losses import mirror_losses
from .mirror import Mirror
from .training.checkpoint import load_weights, read_checkpoint, save_recipe, stamp
from .training.optimiser import Optimiser
from .training.provenance import Origin
from .training.stage import Stage


class NAMM(Stage):
    r"""Creates the stage that learns a neural approximate mirror map: g from data to mirror space,
    and f from noisy mirror points back onto the constraint set.

    .. math::
        \text{loss} = \tfrac12 (\text{cycle\_forward} + \text{cycle\_inverse})
        + \lambda\, \text{constraint} + \mu\, \text{regulariser}

    Fine-tuning is the same stage with mirror samples `y` in the batch, `freeze_forward` and
    `init_from`.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        mirror: The maps g and f.
        constraint: The constraint whose distance trains the maps. Its own weights are frozen.
        sigma_max: The largest std of the noise that f learns to remove, in field units.
        constraint_weight: The weight :math:`\lambda`.
        constraint_warmup: The steps over which :math:`\lambda` rises from 0 in training. Maps that
            first learn to return the data do not settle on a few fields of the set.
        regulariser_weight: The weight :math:`\mu`.
        freeze_forward: Whether g stays as it is.
        init_from: The path of a checkpoint of this stage to start the maps from.
        optimiser: The settings of Adam.
        seed: The seed of all noise, and of the order of the data.
    """

    name = "namm"
    mirror: Mirror
    constraint: Constraint
    robustness: Any
    floor: Any

    def __init__(
        self,
        mirror: Mirror,
        constraint: Constraint,
        sigma_max: NonNegativeFloat = 0.1,
        constraint_weight: NonNegativeFloat = 1.0,
        constraint_warmup: Natural = 0,
        regulariser_weight: NonNegativeFloat = 1e-3,
        freeze_forward: bool = False,
        init_from: str | None = None,
        optimiser: Optimiser = Optimiser(lr=2e-4, beta1=0.5),
        seed: Seed = 0,
    ) -> None:
        super().__init__(optimiser, seed)
        save_recipe(self, "mirror", "constraint")
        self.mirror, self.constraint = mirror, constraint
        self.sigma_max = sigma_max
        self.constraint_weight, self.constraint_warmup = constraint_weight, constraint_warmup
        self.regulariser_weight = regulariser_weight
        constraint.requires_grad_(False)
        if init_from is not None:
            state = read_checkpoint(init_from)
            try:
                mirror.load_state_dict(load_weights(state, "mirror"))
            except RuntimeError as error:
                fault = " ".join(str(error).split())[:300]
                raise InputError(f"{init_from} holds maps of other networks: {fault}") from error
            stamp(mirror, init_from, state)
        if freeze_forward:
            mirror.freeze_forward()
        self.freeze_forward = freeze_forward
        levels = [sigma_max * k / 4 for k in range(5)]
        self.robustness = torch.nn.ModuleList(ConstraintDistance() for _ in levels)
        self.floor = ConstraintDistance()
        self._levels = levels

    def origin(self) -> Origin:
        return Origin(self.constraint, self.mirror)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_forward:  # nor may dropout or running statistics move mirror space
            self.mirror.freeze_forward()
        return self

    def losses(self, batch: Batch, *key: int | str) -> dict[str, Tensor]:
        x, y = batch["x"], batch.get("y")
        shape = self.mirror.shape(x.shape[1:])
        if y is not None and y.shape[1:] != torch.Size(shape):
            wanted, got = tuple(shape), tuple(y.shape[1:])
            raise InputError(
                f"Mirror samples of these maps have shape {wanted}, got {got}: draw new ones."
            )
        n = self.noise(batch, shape, *key, "noise")
        scale = self.sigma_max * self.uniform(batch, *key, "level")
        scale = scale.reshape(-1, *[1] * (n.ndim - 1))
        losses = mirror_losses(self.mirror, self.constraint, x, scale * n, y, batch.get("given"))
        rising = self.training and self.global_step < self.constraint_warmup
        rise = self.global_step / self.constraint_warmup if rising else 1.0
        losses["loss"] = (
            0.5 * (losses["cycle_forward"] + losses["cycle_inverse"])
            + rise * self.constraint_weight * losses["constraint"]
            + self.regulariser_weight * losses["regulariser"]
        )
        return losses

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        y, given = self.mirror(batch["x"]), batch.get("given")
        n = self.noise(batch, y.shape[1:], "robustness")
        for level, metric in zip(self._levels, self.robustness, strict=True):
            metric.update(self.constraint(self.mirror.inverse(y + level * n), given))
        self.floor.update(self.constraint(batch["x"], given))

    def on_validation_epoch_end(self) -> None:
        for level, metric in zip(self._levels, self.robustness, strict=True):
            self.log(f"val/robustness/{level:.3g}", metric.compute()["mean"])
            metric.reset()
        self.log("val/data_floor", self.floor.compute()["mean"])
        self.floor.reset()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.mirror.clamp_()

    @torch.no_grad()
    def panels(self, batch: Batch) -> tuple[dict[str, Tensor], list[str]]:
        r"""Returns the fields worth looking at, by title, for the figure of each validation, and
        the titles of those in mirror space."""
        x = batch["x"]
        y = self.mirror(x)
        y_noisy = y + self.sigma_max * self.noise(batch, y.shape[1:], "robustness")
        noisy = f"g(x) + {self.sigma_max:g} n"
        fields = {
            "x": x,
            "g(x)": y,
            "f(g(x))": self.mirror.inverse(y),
            noisy: y_noisy,
            f"f({noisy})": self.mirror.inverse(y_noisy),
        }
        return fields, ["g(x)", noisy]
