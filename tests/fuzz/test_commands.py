"""Wrong commands by the hundred: each is answered in a sentence, or does what it says."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.fuzz.grammar import cases
from tests.fuzz.judge import BAD, lay_out, run, tally, verdict
from tests.fuzz.judge import template as template  # a fixture

SEED = 18


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(4))
def test_wrong_command_is_answered_in_a_sentence(
    part: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMM_TRACEBACK", "0")
    rows = run(cases(SEED, 600)[part::4], template, tmp_path)
    kinds = [kind for _, kind, _ in rows]
    assert not {*BAD} & {*kinds}, tally(rows)
    assert kinds.count("clear") > 0.5 * len(kinds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wrong_command_is_answered_so_in_a_process(template: Path, tmp_path: Path) -> None:
    """A process answers as the call of `main` does."""
    found = [case for case in cases(SEED, 600) if not case.damage[0]][:40]
    alone = [kind for _, kind, _ in run(found, template, tmp_path)]

    def in_process(number: int) -> tuple[str, str]:
        folder = tmp_path / f"{number}-process"
        command = [sys.executable, "-m", "namm", *lay_out(found[number], template, folder)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
        return verdict(done.returncode, done.stderr)

    with ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(in_process, range(len(found)))]
    for case, kind, (found_kind, words) in zip(found, alone, answers, strict=True):
        assert found_kind == kind, (case, words)
