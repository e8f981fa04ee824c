r"""Figures: grids of fields and residuals, and the callback that draws one per validation."""

__all__ = [
    "LogFields",
    "are_curves",
    "draw_fields",
    "field_grid",
    "residual_image",
    "unmarked",
]

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from einops import rearrange
from torch import Tensor

from constraints import Batch, Constraint, Given, PositiveInt, Ranged, take

from ..training.stage import first_rows
from .results import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATHS = 12  # drawn in a panel


def field_grid(
    fields: dict[str, Tensor],
    constraint: Constraint | None = None,
    rows: int = 2,
    mirror: Collection[str] = (),
    given: Given | None = None,
) -> "Figure":
    r"""Draws fields side by side, with their residuals below; points of the plane, which are
    fields of shape `(2, 1, 1)`, and paths, of shape `(C, L, 1)`, all together.

    Arguments:
        fields: The fields by title, each with shape `(B, C, H, W)`; the channels are drawn as one
            mosaic, on the colour range of the first of the fields.
        constraint: The constraint whose residual is drawn, where it has one.
        rows: The number of samples drawn.
        mirror: The titles of the fields in mirror space, which have no residual.
        given: The data of the first samples, for the constraint.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    rows = min(rows, *(len(f) for f in fields.values()))
    residuals = {
        title: None if title in mirror else residual_image(constraint, field, given)
        for title, field in fields.items()
    }
    per_row = 1 if all(r is None for r in residuals.values()) else 2
    size = (1.7 * len(fields) + 0.8, 1.75 * rows * per_row + 0.3)
    if are_curves(fields):
        size = (2.2 * len(fields) + 0.4, 2.8)
    figure = Figure(figsize=size, layout="constrained")
    draw_fields(figure, fields, residuals, rows)
    return figure


def draw_fields(
    figure: Any,
    fields: Mapping[str, Tensor],
    residuals: Mapping[str, Tensor | None],
    rows: int,
) -> None:
    r"""Draws fields and residuals into a figure or a part of one. Residuals share a colour range,
    the 99 % quantile of the largest. What are points or paths is drawn as such.

    Arguments:
        figure: The `matplotlib` figure or sub-figure.
        fields: The fields by title, each with shape `(B, C, *S)`.
        residuals: The residuals by the same titles, `(B, C', H', W')`, or none.
        rows: The number of samples drawn.
    """
    if are_curves(fields):
        _draw_curves(figure, fields, residuals)
        return
    fields = {title: _images(field) for title, field in fields.items()}
    first = next(iter(fields.values())).float()
    vmin, vmax = float(first.min()), float(first.max())
    drawn = [r.abs().flatten()[:100_000] for r in residuals.values() if r is not None]
    scale = max((float(r.quantile(0.99)) for r in drawn), default=0.0)
    per_row = 2 if drawn else 1
    panels = figure.subplots(rows * per_row, len(fields), squeeze=False)
    for column, (title, field) in enumerate(fields.items()):
        panels[0][column].set_title(unmarked(title), fontsize=8)
        residual = residuals[title]
        for row in range(rows):
            panel = panels[row * per_row][column]
            mosaic = _mosaic(field[row].detach().float().cpu()).numpy()
            image = panel.imshow(mosaic, cmap="viridis", vmin=vmin, vmax=vmax, **_IMAGE)
            if column == len(fields) - 1:
                bar = figure.colorbar(image, ax=panels[row * per_row].tolist(), **_BAR)
                bar.ax.tick_params(labelsize=7)
            if residual is None:
                if drawn:
                    panels[row * per_row + 1][column].set_axis_off()
                continue
            panel = panels[row * per_row + 1][column]
            image = panel.imshow(
                _mosaic(residual[row]).numpy(), cmap="seismic", vmin=-scale, vmax=scale, **_IMAGE
            )
            label = rf"$\ell$ = {residual[row].abs().mean():.1e}"
            box = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 1.5}
            panel.text(
                0.97, 0.04, label, fontsize=6.5, transform=panel.transAxes, ha="right", bbox=box
            )
            if column == len(fields) - 1:
                line = panels[row * per_row + 1].tolist()
                bar = figure.colorbar(image, ax=line, **_BAR)
                bar.ax.tick_params(labelsize=7)
    for row, line in enumerate(panels):
        for panel in line:
            panel.set_xticks([])
            panel.set_yticks([])
        line[0].set_ylabel("residual" if row % per_row else "field", fontsize=8)


def _images(field: Tensor) -> Tensor:
    r"""Returns fields `(B, C, *S)` as images `(B, C', H, W)`: a line is one of height 1, and the
    layers of a volume become channels."""
    return field.unsqueeze(-2) if field.ndim == 3 else field.flatten(1, -3)


def _mosaic(field: Tensor) -> Tensor:
    r"""Returns the channels `(C, H, W)` side by side, in rows of even length, as one image."""
    channels = len(field)
    columns = next(n for n in range(math.ceil(channels**0.5), channels + 1) if channels % n == 0)
    # images are drawn from below
    rows = field.unflatten(0, (-1, columns)).flip(0)
    image: Tensor = rearrange(rows, "r c h w -> (r h) (c w)")
    return image


def unmarked(name: str) -> str:
    r"""Returns a name in a form that `matplotlib` does not read as mathematics."""
    return one_line(name).replace("$", r"\$")


def are_curves(fields: Mapping[str, Tensor]) -> bool:
    r"""Returns whether fields are drawn in the plane: as points, `(B, 2, 1, 1)`, or as paths,
    `(B, C, L, 1)`."""
    shape = next(iter(fields.values())).shape[1:]
    return len(shape) == 3 and shape[0] >= 2 and shape[-1] == 1


def _draw_curves(
    figure: Any, fields: Mapping[str, Tensor], residuals: Mapping[str, Tensor | None]
) -> None:
    # on shared axes, so that none that went astray is cut off
    panels = figure.subplots(1, len(fields), squeeze=False, sharex=True, sharey=True)[0]
    shape = next(iter(fields.values())).shape[1:]
    for panel, (title, field) in zip(panels, fields.items(), strict=True):
        panel.set_title(unmarked(title), fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_aspect("equal")
        if field.shape[1:] != shape:
            panel.set_axis_off()
            continue
        field = field.detach().float().cpu()
        if shape[1] == 1:
            panel.scatter(*field[:, :2].flatten(1).T.numpy(), s=3, lw=0)
        else:
            for path in field[:PATHS, :2, :, 0]:
                (line,) = panel.plot(*path.numpy(), lw=0.8)
                panel.plot(*path[:, 0].numpy(), "o", ms=2.5, color=line.get_color())
        residual = residuals[title]
        if residual is not None:
            label = rf"mean $\ell$ = {residual.abs().mean():.1e}"
            panel.set_xlabel(label, fontsize=6.5)


_BAR: dict[str, Any] = {"aspect": 14, "pad": 0.01}
_IMAGE: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}


@torch.no_grad()
def residual_image(
    constraint: Constraint | None, field: Tensor, given: Given | None = None
) -> Tensor | None:
    r"""Returns the residual, where it is one image or several.

    Arguments:
        constraint: The constraint.
        field: The fields, with shape `(B, C, H, W)`.
        given: The data of the first fields, to which the residuals are then limited.

    Returns:
        The residuals, with shape `(B, C', H', W')`, or nothing.
    """
    if constraint is None:
        return None
    if given:
        n = min(len(field), *(len(value) for value in given.values()))
        field, given = field[:n], take(given, slice(n))
    residual = constraint.residual(field.float(), given).cpu()
    return residual.flatten(1, -3) if residual.ndim > 3 else None


class LogFields(Ranged, L.Callback):
    r"""Creates the callback that logs, at the end of each validation, a figure of the first
    fields of the validation set as they pass through the stage (what the module's `panels`
    returns), and one of their residuals. Loggers other than TensorBoard are left alone.

    Arguments:
        rows: The number of samples drawn.
    """

    def __init__(self, rows: PositiveInt = 2) -> None:
        self.rows = rows
        self.batch: Batch = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0:
            self.batch = first_rows(batch, self.rows)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        experiment: Any = getattr(trainer.logger, "experiment", None)
        if trainer.sanity_checking or not self.batch or not hasattr(experiment, "add_figure"):
            return
        fields, mirror = pl_module.panels(self.batch)  # type: ignore[operator]
        constraint = getattr(pl_module, "constraint", None)
        figure = field_grid(fields, constraint, self.rows, mirror, self.batch.get("given"))
        experiment.add_figure("fields", figure, trainer.global_step)
