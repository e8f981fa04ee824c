"""Shipped files and cards: nothing of another author is replaced."""

from pathlib import Path

import pytest

from namm.cli.main import main
from namm.evaluation.shipping import BEGIN, END
from tests.chains import write_tiny

RUNS = Path("runs/burgers-tiny")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""A folder in which the maps of a tiny problem are trained."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "configs/burgers", "--scale", "tiny", "--to", "namm"]) is None
    return folder


@pytest.fixture
def problem(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# Mine\r\n\n# Trained models of others\n\nSee below.\n", ""),
        ("# Mine\n", "\n## After\n# Trained models of mine\n"),
        (f"{BEGIN}\nAn open mark.\n", f"\nA closed mark.\n{END}\n"),
    ],
)
def test_card_replaces_nothing_but_the_card(
    problem: None, tmp_path: Path, before: str, after: str
) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(before.encode())
    assert main(["ship", str(RUNS), str(tmp_path)]) is None
    text = card.read_bytes().decode()
    assert text.startswith(before) and text.count("The averaged weights") == 1

    card.write_bytes(f"{text}{after}".encode())
    assert main(["ship", str(RUNS), str(tmp_path), "--half", "--replace"]) is None
    again = card.read_bytes().decode()
    assert again.startswith(before) and again.endswith(f"{END}\n{after}")
    assert again.count("The averaged weights") == 1 and "in float16" in again


def test_other_weights_are_not_replaced_unasked(
    problem: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert main(["ship", str(RUNS), str(tmp_path)]) is None
    before = content()
    assert main(["ship", str(RUNS), str(tmp_path), "--half"]) == 1
    assert "safetensors is there already: move it away, or give --repl" in capsys.readouterr().err
    assert content() == before
    assert main(["ship", str(RUNS), str(tmp_path), "--half", "--replace"]) is None
    assert content().keys() == before.keys() and content() != before
