"""Mutations: each is a program, differs in one line, and repeats with its seed."""

import ast
from pathlib import Path

import pytest

from benchmarks.mutations.__main__ import catch, chosen
from benchmarks.mutations.mutants import Mutant, draw, mutants

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("a < b", ["(a <= b)"]),
        ("a + b", ["(a - b)"]),
        ("a and b", ["(a or b)"]),
        ("not a", ["(a)"]),
        ("f(a, b)", ["(f(b, a))"]),
        ("min(a, b)", ["(max(a, b))"]),
        ("a.any()", ["(a.all())"]),
        ("3", ["(4)", "(2)"]),
        ("True", ["(False)"]),
        ("a", []),
        ("'text'", []),
    ],
)
def test_expression_has_its_mutations(line: str, changes: list[str]) -> None:
    source = f"def f(a: int = 1) -> int:\n    return {line}\n"
    found = [mutant.after for mutant in mutants(source, "f.py")]

    assert found == [f"    return {change}" for change in changes]
    assert not [*mutants(source, "f.py", executed=[1])]


def test_messages_types_and_formats_are_left_alone() -> None:
    source = "def f(a):\n    b: Literal[3] = a\n    raise ValueError(f'{a + 1}', 2 < a)\n"
    assert not [*mutants(source, "f.py")]


def test_draw_repeats_with_its_seed_and_parses() -> None:
    drawn = draw(ROOT, 0, 20)
    assert drawn == draw(ROOT, 0, 20) and drawn != draw(ROOT, 1, 20)
    for mutant in drawn:
        lines = (ROOT / mutant.file).read_text("utf-8").splitlines()
        assert lines[mutant.line - 1] == mutant.before != mutant.after
        ast.parse("\n".join([*lines[: mutant.line - 1], mutant.after, *lines[mutant.line :]]))


def test_tests_of_a_file_come_first() -> None:
    file = "mdm/schedule.py"
    assert chosen(ROOT, Mutant(file, 1, "", ""))[0] == "tests/mdm/test_schedule.py"


def test_mutation_is_caught_by_a_test_that_passes_without_it(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/a.py").write_text("def f():\n    return 2\n")
    head = "from toy.a import f\ndef test_"
    (tmp_path / "test_a.py").write_text(f"{head}two():\n    assert f() == 2\n")
    (tmp_path / "test_b.py").write_text(f"{head}three():\n    assert f() == 3\n")
    one = Mutant("toy/a.py", 2, "    return 2", "    return (1)")

    assert catch(tmp_path, one, ["test_a.py"], 100) == "test_a.py::test_two"
    with pytest.raises(SystemExit, match="test_three fails without a mutation"):
        catch(tmp_path, one, ["test_b.py"], 100)
    assert (tmp_path / "toy/a.py").read_text().endswith("return 2\n")
