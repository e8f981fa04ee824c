"""Wrong calls from Python, each of which is refused in a sentence."""

from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.calls import answer, calls

SEED = 18


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wrong_call_is_refused_in_a_sentence(tmp_path: Path) -> None:
    rows = [(label, *answer(call)) for label, call in calls(SEED, tmp_path)]
    bad = [row for row in rows if row[1] != "clear"]
    assert not bad, "\n".join(map(str, bad))
    assert Counter(kind for _, kind, _ in rows)["clear"] >= 150
