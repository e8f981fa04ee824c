"""The command `check`: it judges a constraint, and names mistakes in a sentence."""

import json
from pathlib import Path

import pytest

from constraints import Finding, bars
from datamodules import write_fields
from namm.cli.main import main
from tests.commands import PROBLEM, ROOT, write
from tests.commands import problem as problem  # a fixture
from tests.constraints.unsound import centred

# the command
MEAN = """
from tests.constraints.unsound import Mean

class Mine(Mean):
    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset

    def residual(self, x):
        return super().residual(x) - self.offset
"""


@pytest.fixture
def mine(problem: Path) -> None:
    """A constraint in the working directory, and a file of fields that satisfy it."""

    write("mine.py", MEAN)
    write("endless.yaml", {"data": {"class_path": "datamodules.CountingData"}})
    write_fields("data.h5", {"train": centred(), "val": centred() + 1}, {"data_floor": 0.0}, {})


def test_command_says_that_a_constraint_passes(
    mine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "mine.Mine", "--data", "data.h5"]) is None

    head, _, *rows, _, last = capsys.readouterr().out.splitlines()
    assert head == "mine.Mine on 4 fields of data.h5, /train, of shape (1, 6, 8)"
    assert last == "mine.Mine passes."
    assert len(rows) == 17
    column = rows[0].index("wanted")
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)


def test_command_says_what_fails_and_what_to_do(
    mine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "check",
        "mine.Mine",
        "--constraint.offset",
        "1",
        "--data=data.h5",
        "--json=out/c.json",
    ]
    assert main(argv) == 1
    before = Path("out/c.json").read_bytes()
    assert main([*argv, "--split=val"]) == 1
    assert Path("out/c.json").read_bytes() == before
    assert main([*argv, "--split=val", "--replace"]) is None

    out, error = capsys.readouterr()
    assert "mine.Mine fails: zero on data" in out and "out/c.json is there already" in error
    assert "\n      -> This field " in out
    result = json.loads(Path("out/c.json").read_text())
    assert result["constraint"] == {"class_path": "mine.Mine", "init_args": {"offset": 1.0}}
    assert result["passes"] and result["split"] == "val" and len(result["findings"]) == 16
    assert result["findings"][0].keys() == set(Finding._fields)


def test_command_takes_configurations(
    problem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars.Lines, "seconds", 0.0)
    write("constraint.yaml", PROBLEM["model"]["init_args"]["constraint"])
    write("data.yaml", {"data": PROBLEM["data"]})

    for _ in range(2):  # the file is simulated once
        assert main(["check", "constraint.yaml", "--data=data.yaml", "--fields=3"]) is None
    streams = capsys.readouterr()
    assert streams.out.count("Burgers on 3 fields of data.h5, /train, of shape (1, 16, 8)") == 2
    assert streams.err.count("Simulating data.h5: 24 of 24 fields") == 1
    options = ["--constraint.substeps=3", "--data=data.h5"]
    assert main(["check", "constraint.yaml", *options]) == 1  # the file says 2
    assert "parameters.substeps" in capsys.readouterr().err


def test_command_makes_do_with_noise(problem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "Burgers", "--shape", "[1,8,8]"]) is None
    assert "not checked without data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        ([], 2, ["needs constraint", "usage: namm check CONSTRAINT"]),
        (["--data=data.h5"], 2, ["needs constraint"]),
        (["Burger", "--data=data.h5"], 2, ["'Burger'", "did you mean: constraints.Burgers?"]),
        (["mine.Mean", "--offset=1"], 2, ["no option 'offset'", "--constraint.OPTION"]),
        (["mine.Mine", "--constraint.ofset=1"], 2, ["no option 'ofset'", "did you mean: offset?"]),
        (["namm.ICNN", "--data=data.h5"], 2, ["namm.ICNN is not a Constraint", "Burgers"]),
        (["none.yaml", "--data=data.h5"], 2, ["error: there is no file 'none.yaml'"]),
        ([f"{ROOT}/configs/counter.yaml"], 2, ["counter.yaml have no constraint"]),
        (["mine.Mine"], 2, ["--data FILE", "--shape [1,64,64]"]),
        (["mine.Mine", "--data=data.h5", "--shape=[1,8,8]"], 2, ["--data FILE"]),
        (["mine.Mine", "--shape=[1,0]"], 2, ["shape", "PositiveInt"]),
        (["mine.Mine", "--data=data.h5", "--fields=1"], 2, ["at least 2 fields"]),
        (["mine.Mine", "--data=none.yaml"], 2, ["none.yaml"]),
        (["mine.Mine", "--data=problem.yaml"], 2, ["problem.yaml", "model"]),
        (["mine.Mine", "--data=endless.yaml"], 1, ["CountingData of endless.yaml keeps no file"]),
        (["mine.Mine", "--data=none.h5"], 1, ["There is no file 'none.h5'"]),
        (["mine.Mine", "--data=data.h5", "--split=test"], 1, ["no /test/x", "train, val"]),
        (["Burgers", "--data=data.h5"], 1, ["does not say its problem", "'burgers' is wanted"]),
        (["Burgers", "--constraint.dt=-1", "--shape=[1,8,8]"], 1, ["Burgers expects dt", "-1.0"]),
        (["Burgers", "--shape=[2,8,8]"], 1, ["Burgers expects (B, 1, X, T)"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_mistake_is_answered_in_a_sentence(
    argv: list[str], code: int, parts: list[str], mine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *argv]) == code

    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and "Traceback" not in error
    assert error.count("\n") <= 2, "more than a sentence and a suggestion"
    assert all(part in error for part in parts), error
