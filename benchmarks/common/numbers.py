r"""Means of a few numbers with their intervals, and numbers with few digits."""

__all__ = ["interval", "tidy"]

import math
import statistics
from typing import Any

from scipy import stats


def interval(each: list[float]) -> dict[str, Any]:
    r"""Returns the mean, its 95 % interval of Student's t, and the std of a few numbers."""
    mean, sd = statistics.mean(each), statistics.stdev(each)
    half = float(stats.t.ppf(0.975, len(each) - 1)) * sd / math.sqrt(len(each))
    ends = [tidy(mean - half), tidy(mean + half)]
    return {"value": tidy(mean), "ci95": ends, "sd": tidy(sd)}


def tidy(x: float) -> float:
    r"""Returns a number with four digits."""
    return float(f"{x:.4g}")
