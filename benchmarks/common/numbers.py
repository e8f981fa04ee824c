r"""Means of a few numbers with their intervals, as rows of results."""

__all__ = ["Row", "interval", "rows_of", "tidy", "winners"]

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

Row = dict[str, Any]


def interval(each: Sequence[float]) -> Row:
    r"""Returns the mean, its 95 % interval of Student's t, and the std of a few numbers."""
    mean, sd = statistics.mean(each), statistics.stdev(each)
    half = float(stats.t.ppf(0.975, len(each) - 1)) * sd / math.sqrt(len(each))
    ends = [tidy(mean - half), tidy(mean + half)]
    return {"value": tidy(mean), "ci95": ends, "sd": tidy(sd)}


def tidy(x: float) -> float:
    r"""Returns a number with four digits."""
    return float(f"{x:.4g}")


def rows_of(about: Row, values: Sequence[dict[str, float]], spent: Row) -> list[Row]:
    r"""Returns a row for each metric of the values of each seed, with its mean, interval and std,
    between the first columns and the last."""
    return [
        {**about, "metric": metric, **interval([v[metric] for v in values]), "seed": 0, **spent}
        for metric in values[0]
    ]


def winners(losses: dict[str, float], sd: dict[str, float], pooled: bool = True) -> list[str]:
    r"""Returns the name of the smallest loss, then the names within one standard deviation of it:
    pooled over both names, or of the smallest loss alone."""
    first, *others = sorted(losses, key=losses.__getitem__)

    def margin(name: str) -> float:
        return math.sqrt((sd[first] ** 2 + sd[name] ** 2) / 2) if pooled else sd[first]

    return [first, *(n for n in others if losses[n] - losses[first] <= margin(n))]
