r"""Figures: grids of fields and residuals, and the callback that draws one per validation."""

__all__ = ["LogFields", "field_grid"]

from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from constraints import Constraint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def field_grid(
    fields: dict[str, Tensor],
    constraint: Constraint | None = None,
    rows: int = 2,
    axes: tuple[str, str] = ("x", "t"),
) -> "Figure":
    r"""Draws fields side by side on one colour scale, with their residuals below.

    Arguments:
        fields: The fields by title, each with shape `(B, C, H, W)`; the first channel is drawn.
            Fields of one data space share the colour range of the first.
        constraint: The constraint whose residual is drawn below each field, where it has one.
        rows: The number of samples drawn.
        axes: The names of the last two axes.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    fields = {title: f.detach().float().cpu() for title, f in fields.items()}
    rows = min(rows, *(len(f) for f in fields.values()))
    residuals = _residuals(constraint, fields)
    per_row = 2 if residuals else 1
    first = next(iter(fields.values()))
    low, high = float(first[:, 0].min()), float(first[:, 0].max())
    figure = Figure(
        figsize=(1.7 * len(fields) + 0.7, 1.75 * rows * per_row + 0.3), layout="constrained"
    )
    panels = figure.subplots(rows * per_row, len(fields), squeeze=False)
    scale = _scale(residuals)
    for column, (title, field) in enumerate(fields.items()):
        for row in range(rows):
            panel = panels[row * per_row][column]
            image = panel.imshow(
                field[row, 0], origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high
            )
            if column == len(fields) - 1:
                figure.colorbar(image, ax=panels[row * per_row].tolist(), aspect=12, pad=0.02)
            if residuals:
                panel = panels[row * per_row + 1][column]
                residual = residuals[title][row]
                image = panel.imshow(
                    residual,
                    origin="lower",
                    aspect="auto",
                    cmap="seismic",
                    vmin=-scale,
                    vmax=scale,
                )
                panel.text(
                    0.97,
                    0.03,
                    rf"$\ell$ = {residual.abs().mean():.1e}",
                    fontsize=6.5,
                    transform=panel.transAxes,
                    ha="right",
                    va="bottom",
                    bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1.5},
                )
                if column == len(fields) - 1:
                    figure.colorbar(
                        image, ax=panels[row * per_row + 1].tolist(), aspect=12, pad=0.02
                    )
        panels[0][column].set_title(title, fontsize=8)
    for row, line in enumerate(panels):
        for panel in line:
            panel.set_xticks([])
            panel.set_yticks([])
        label = "residual" if residuals and row % 2 else axes[0]
        line[0].set_ylabel(label, fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel(axes[1], fontsize=8)
    return figure


def _residuals(constraint: Constraint | None, fields: dict[str, Tensor]) -> dict[str, Tensor]:
    if constraint is None:
        return {}
    constraint = constraint.cpu()
    residuals = {}
    with torch.no_grad():
        for title, field in fields.items():
            try:
                residual = constraint.residual(field)
            except NotImplementedError:
                return {}
            if residual.ndim != 4:
                return {}
            residuals[title] = residual[:, 0]
    return residuals


def _scale(residuals: dict[str, Tensor]) -> float:
    # a range that shows the worst method's bulk, not its outliers
    values = [r.abs().flatten() for r in residuals.values()]
    return max([float(v.quantile(0.99)) for v in values if len(v)] + [1e-12])


class LogFields(L.Callback):
    r"""Creates the callback that logs, at the end of each validation, a figure of the first
    fields of the validation set as they pass through the stage (what the module's `panels`
    returns), and one of their residuals. Loggers other than TensorBoard are left alone.

    Arguments:
        rows: The number of samples drawn.
    """

    def __init__(self, rows: int = 2) -> None:
        self.rows = rows
        self.batch: dict[str, Tensor] = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0:
            self.batch = {k: v[: self.rows] for k, v in batch.items()}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        experiment = getattr(trainer.logger, "experiment", None)
        if trainer.sanity_checking or not self.batch or not hasattr(experiment, "add_figure"):
            return
        fields = pl_module.panels(self.batch)  # type: ignore[operator]
        figure = field_grid(fields, getattr(pl_module, "constraint", None), self.rows)
        experiment.add_figure("fields", figure, trainer.global_step)
