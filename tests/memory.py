"""The growth of the peak memory, which a test measures in a process of its own."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

STATUS = Path("/proc/self/status")


class Peak:
    """The peak of the resident memory from here on, in MiB above the memory now."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        self.start = self._read("VmRSS")

    def growth(self) -> float:
        return self._read("VmHWM") - self.start

    @staticmethod
    def _read(key: str) -> float:
        (line,) = [x for x in STATUS.read_text().splitlines() if x.startswith(f"{key}:")]
        return int(line.split()[1]) / 1024


def alone(measure: Callable[..., float], *args: Any) -> float:
    """Returns the growth that a function of a module measures, in a fresh process."""

    if not STATUS.exists():
        pytest.skip("Only Linux tells the peak of a process.")
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        return pool.apply(measure, args)
