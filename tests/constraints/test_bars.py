"""Progress: units, estimates, a line a minute, and silence where nobody asks."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tqdm import std

from constraints import Burgers, bars, progress, show_progress
from datamodules import BurgersData
from inverse import DPS, Select
from mdm import DDIM, ChainSampler, DPMSolver
from tests.problems import tiny_denoiser


class Clock:
    """A clock that goes on by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(std, "time", clock)
    monkeypatch.setattr(bars.time, "monotonic", clock)
    return clock


def test_progress_is_a_line_a_minute_with_an_estimate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress(), progress(1000, "Drawing", "steps") as bar:
        for _ in range(250):
            clock.now += 1
            bar.update()

    assert capsys.readouterr().err.splitlines() == [
        "Drawing: 60 of 1000 steps, 01:00 so far, 15:40 left",
        "Drawing: 120 of 1000 steps, 02:00 so far, 14:40 left",
        "Drawing: 180 of 1000 steps, 03:00 so far, 13:40 left",
        "Drawing: 240 of 1000 steps, 04:00 so far, 12:40 left",
    ]


def test_work_inside_of_other_work_shares_the_line(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress(), progress(4, "Testing", "batches") as outer:
        for _ in range(4):
            with progress(50, "Drawing", "steps") as inner:
                for _ in range(50):
                    clock.now += 1
                    inner.update()
            outer.update()

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # in 200 seconds
    assert lines[0].startswith("Testing: 1 of 4 batches, ")
    assert "; Drawing: 10 of 50 steps, 00:10 so far, 00:40 left" in lines[0]
    assert not bars.Lines.under_way


def test_terminal_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with show_progress(), progress(10, "Drawing", "steps") as bar:
        bar.update(4)
        bar.refresh()
    assert "Drawing:  40%" in terminal.getvalue() and "4/10" in terminal.getvalue()


def simulate() -> None:
    sizes = {"train": 700, "val": 3}
    BurgersData(Burgers(), file="fields.h5", sizes=sizes, points=8, frames=4).prepare_data()


def draw(sampler: ChainSampler | DPMSolver) -> None:
    sampler(tiny_denoiser(), (1, 8, 8), [0, 1])


def solve() -> None:
    solver = DPS(0.1, transition=DDIM(7))
    solver(tiny_denoiser(), Select(-1, 3, 8), torch.zeros(3, 1, 8, 3), (1, 8, 8), [0, 1, 2])


WORK: list[tuple[Callable[[], None], str]] = [
    (simulate, "Simulating fields.h5: 703 of 703 fields"),
    (lambda: draw(ChainSampler(DDIM(5))), "Drawing a batch of 2: 5 of 5 steps"),
    (lambda: draw(DPMSolver(6)), "Drawing a batch of 2: 6 of 6 steps"),
    (solve, "Drawing a batch of 3: 7 of 7 steps"),
]


@pytest.mark.parametrize(("work", "last"), WORK)
def test_work_shows_its_own_units_where_it_is_asked_to(
    work: Callable[[], None],
    last: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bars.Lines, "seconds", 0.0)
    with show_progress(), show_progress(False):
        work()
    assert capsys.readouterr() == ("", "")
    (tmp_path / "fields.h5").unlink(missing_ok=True)

    with show_progress():
        work()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(last) and len(lines) > 1
    (tmp_path / "fields.h5").unlink(missing_ok=True)
    work()
    assert capsys.readouterr() == ("", "")
