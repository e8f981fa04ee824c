r"""The figure of the benchmark: curves over time, and ranks of the truths."""

__all__ = ["draw"]

from pathlib import Path
from typing import Any

from .scores import FRAMES, METRICS

FREE = ("reference", "exact samples", "prior samples")  # of any network


def draw(results: dict[str, Any], path: Path) -> None:
    r"""Draws the curves over time and the ranks of the truths."""
    from matplotlib.figure import Figure

    # grey for what has no network; a colour for each solver, dashed in mirror space
    lines = dict(zip(FREE, ("-", "--", ":"), strict=True))
    solvers = list(dict.fromkeys(k.split(",")[0] for k in results["frames"] if k not in FREE))

    def style(method: str) -> dict[str, str]:
        if method in FREE:
            return {"color": "0.4", "linestyle": lines[method]}
        name, space = method.split(", ")
        dashed = space == "mirror space"
        return {"color": f"C{solvers.index(name)}", "linestyle": "--" if dashed else "-"}

    figure = Figure(figsize=(15, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    for ax, metric in zip(axes, FRAMES, strict=False):
        for method, curves in results["frames"].items():
            if metric in curves:
                frames = range(1, len(curves[metric]) + 1)
                ax.plot(frames, curves[metric], label=method, **style(method))
        ax.axvspan(1, results["observed"], color="0.92", zorder=0)
        ax.set(title=METRICS[metric], xlabel="frame")
    for ax in axes[:2]:
        ax.set_yscale("log")
    axes[2].axhline(0.9, color="0.5", linestyle=":")
    figure.legend(
        *axes[2].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=7
    )
    for truths, counts in results["ranks"].items():
        centres = [(i + 0.5) / len(counts) for i in range(len(counts))]
        axes[3].step(centres, counts, where="mid", label=truths)
    axes[3].axhline(1.0, color="0.5", linestyle=":")
    axes[3].set(title="ranks of truths in the reference", xlabel="rank", ylim=(0, None))
    axes[3].legend(fontsize=7)
    figure.savefig(path, dpi=130)
