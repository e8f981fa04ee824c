"""Wrong commands by the hundred: each is answered in a sentence, or does what it says."""

import os
from pathlib import Path

import pytest

from tests.commands import process
from tests.fuzz.grammar import cases
from tests.fuzz.judge import BAD, answer, lay_out, run, tally, verdict
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
def test_wrong_command_is_answered_so_in_a_process(template: Path, tmp_path: Path) -> None:
    """Of a few cases of each rule: a process answers as the call of `main` does."""
    found = [case for case in cases(SEED, 600) if not case.damage[0]][:40]
    before = os.getcwd()
    try:
        for number, case in enumerate(found):
            argv = lay_out(case, template, tmp_path / str(number))
            alone, _ = answer(argv)
            lay_out(case, template, tmp_path / f"{number}-process")
            run = process(*argv)
            assert verdict(run.returncode, run.stderr)[0] == alone, (case, run.stderr)
    finally:
        os.chdir(before)
