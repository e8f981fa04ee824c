"""The file of a problem: its bases, blocks and stages, and the configurations of all problems."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from namm.cli.configs import Problem, expand, merge
from namm.cli.errors import CommandError
from namm.cli.lightning import parse
from namm.cli.main import main
from tests.commands import PROBLEM, ROOT, write
from tests.commands import problem as problem  # a fixture

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PROBLEMS = [file for file in CONFIGS if file.name not in ("cpu.yaml", "demo.yaml", "trainer.yaml")]
PROBLEMS = [file for file in PROBLEMS if file.name != "stages.yaml"]
TEXT = """
base: base.yaml
blocks:
  rule: {init_args: {dt: 2}}
  big: {model: {class_path: Large, init_args: {depth: 9}}}
stages:
  fit: {verb: fit, blocks: [small], trainer: {max_steps: 5}}
  "{size}/{n}":
    matrix: {size: [small, big], n: [1, 2]}
    verb: test
    blocks: ["{size}"]
    ckpt_path: "{runs}/fit/{n}.ckpt"
"""
BASE = """
shared: {data: {init_args: {constraint: $rule, file: data.yaml}}}
blocks:
  rule: {class_path: Rule, init_args: {dt: 1, dx: 1}}
  small: {model: {class_path: Small, init_args: {width: 1e-3, constraint: $rule}}}
stages: {old: {verb: fit}, gone: {verb: fit}}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Problem:
    monkeypatch.chdir(tmp_path)
    write("configs/base.yaml", BASE)
    write("configs/data.yaml", "{}")
    write("configs/toy.demo.yaml", TEXT + "  gone: null\n")
    return Problem(Path("configs/toy.demo.yaml"))


def test_stages_of_the_base_come_first_and_a_matrix_is_every_pair(toy: Problem) -> None:
    assert list(toy.stages) == ["old", "fit", "small/1", "small/2", "big/1", "big/2"]


def test_configuration_is_what_is_shared_then_the_blocks_then_the_stage(toy: Problem) -> None:
    rule = {"class_path": "Rule", "init_args": {"dt": 2, "dx": 1}}
    config = toy.config("fit")

    assert config["data"] == {"init_args": {"constraint": rule, "file": "configs/data.yaml"}}
    assert config["model"]["init_args"] == {"width": 1e-3, "constraint": rule}
    logger = config["trainer"]["logger"]["init_args"]
    assert config["trainer"]["max_steps"] == 5
    assert logger == {"save_dir": "runs", "name": "toy-demo", "version": "fit"}
    assert toy.config("big/2")["ckpt_path"] == "runs/toy-demo/fit/2.ckpt"


def test_exchanged_class_drops_the_arguments_of_the_class_before() -> None:
    base: dict[str, Any] = {"class_path": "A", "init_args": {"a": 1, "b": {"c": 2}}}

    assert merge(base, {"init_args": {"b": {"d": 3}}})["init_args"] == {
        "a": 1,
        "b": {"c": 2, "d": 3},
    }
    assert merge(base, {"class_path": "A", "init_args": {"e": 4}})["init_args"].keys() == {*"abe"}
    assert merge(base, {"class_path": "B"}) == {"class_path": "B"}
    assert merge({"x": base}, {"x": None}) == {"x": None}


def test_command_is_expanded(toy: Problem) -> None:
    argv = ["fit", "-c", "configs/toy.demo.yaml::fit", "-c", "mine.yaml", "--x=a::b"]
    words = expand(argv)

    assert yaml.safe_load(words[2]) == toy.config("fit")
    assert words[:2] + words[3:] == ["fit", "-c", "-c", "mine.yaml", "--x=a::b"]


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            "base: base.yaml",
            "base: bse.yaml",
            [
                "base: there is no file 'configs/bse.yaml' (configs/toy.demo.yaml, line 2)",
                "base.yaml",
            ],
        ),
        ("base: base.yaml", "base: toy.demo.yaml", ["configs/toy.demo.yaml is a base of itself"]),
        (
            "blocks:",
            "bloks:",
            ["configs/toy.demo.yaml has no key 'bloks'", "did you mean: blocks"],
        ),
        ("dt: 2", "dt: $ruel", ["rule: there is no block 'ruel' (", "mean: rule?"]),
        ("dt: 2", "dt: $rule", ["rule: refers to itself (configs/toy.demo.yaml, line 4)"]),
        ("depth: 9", "depth: 9, depth: 8", ["configs/toy.demo.yaml", "'depth' again in line 5"]),
        (
            "verb: test",
            "verb: tset",
            ["{size}/{n}: expected", "got 'tset' (", "did you mean: test?"],
        ),
        (
            "{verb: fit, blocks: [small]",
            "{verb: fit, blocks: [smal]",
            ["fit: there is no block 'smal' (", "did you mean: small?"],
        ),
        ("stages:", "stages: [", ["configs/toy.demo.yaml is not valid YAML"]),
    ],
)
def test_mistake_is_answered_by_its_file_and_key(
    old: str, new: str, parts: list[str], toy: Problem, capsys: pytest.CaptureFixture[str]
) -> None:
    text = toy.path.read_text()
    assert old in text
    toy.path.write_text(text.replace(old, new))

    assert main(["fit", "-c", f"{toy.path}::fit"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and "Traceback" not in error
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("stages: {a: {verb: fit, blocks: 3}}", "a.blocks: expected a name or a list of names"),
        ("stages: {a: {verb: fit, blocks: [[b]]}}", "a.blocks: expected a name or a list"),
        ("stages: {a: {verb: fit, matrix: 3}}", "a.matrix: expected keys, got '3' (bad.yaml"),
        (
            "stages: {'{t}': {verb: fit, matrix: {t: 3}}}",
            "{t}.matrix.t: expected a list of values",
        ),
        ("stages: {'{t}': {verb: fit, matrix: {t: abc}}}", "expected a list of values, got 'abc'"),
        ("stages: {'{t}': {verb: fit, matrix: {t: []}}}", "expected a list of values, got '[]'"),
        ("stages: {'a{t}': {verb: fit}}", "a{t}: expected in braces the names of its matrix"),
        ("stages: {a: {verb: fit, matrix: {t: [1, 2]}}}", "its matrix, which are: t (bad.yaml"),
        ("stages: {a: {verb: fit, trainer: 5}}", "a.trainer: expected keys, got '5'"),
        ("stages: {a: {verb: fit, trainer: {logger: 5}}}", "a.trainer.logger: expected keys"),
        (
            "stages: {a: {verb: fit, trainer: {logger: {init_args: 5}}}}",
            "logger.init_args: expect",
        ),
        ("stages: {a: {verb: fit, blocks: b}}\nblocks: {b: null}", "blocks.b: expected keys"),
        ("stages: {a: {verb: fit, blocks: b}}\nblocks: {b: [1]}", "blocks.b: expected keys"),
        ("stages: {a: 5}", "a: expected {verb: ...} with one of"),
        ("stages: {a: {verb: [fit]}}", "a: expected {verb: ...} with one of"),
        ("stages: 5", "stages: expected keys, got '5'"),
        (
            "stages: {[a, b]: {verb: fit}}",
            "bad.yaml is not valid YAML: a key is no text in line 1",
        ),
        ("stages: {a: {verb: fit, date: 2000-13-41}}", "bad.yaml is not valid YAML: month"),
        ("base: [3]", "base: expected a name or a list of names, got '[3]' (bad.yaml, line 1)"),
        ("shared: 5", "shared: expected keys, got '5'"),
        ("stages: {a: \udcff}", "bad.yaml is not valid YAML: 'utf-8' codec can't decode"),
        ("stages: {a: \0}", "bad.yaml is not valid YAML: unacceptable character"),
    ],
)
def test_malformed_file_is_answered_in_a_sentence(
    text: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(CommandError) as caught:
        expand(["fit", "-c", "bad.yaml::a"])
    assert part in str(caught.value)


def test_file_of_a_problem_without_a_stage_is_answered_with_one(
    toy: Problem, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", str(toy.path)]) == 2
    assert f"as {toy.path}::old" in capsys.readouterr().err
    assert main(["fit", "-c", f"{toy.path}::fitt"]) == 2
    error = capsys.readouterr().err
    assert "no stage 'fitt'; its stages: old, fit, small/1, small/2, big/1, big/2." in error
    assert "did you mean: fit?" in error


def test_own_file_comes_after_a_stage(problem: Path) -> None:
    write("mine.yaml", {"model": {"init_args": {"sigma_max": 0.5}}})
    write("toy.yaml", {"shared": PROBLEM, "stages": {"maps": {"verb": "fit"}}})
    config = parse(["fit", "-c", "toy.yaml::maps", "-c", "mine.yaml"])

    assert config["model"]["init_args"]["sigma_max"] == 0.5
    assert config["trainer"]["logger"]["init_args"]["name"] == "toy"


# the configurations of the project
def test_there_are_at_most_40_files() -> None:
    assert 0 < len([*(ROOT / "configs").rglob("*.yaml"), *ROOT.glob("examples/**/*.yaml")]) <= 40


@pytest.mark.parametrize("file", PROBLEMS, ids=lambda file: file.stem)
def test_overlay_names_no_class_again(file: Path) -> None:
    problem = Problem(file)
    layers = [*layers_of(file, set())]
    for stage in problem.stages.values():
        own = {key: value for key, value in stage.items() if key not in ("verb", "blocks")}
        blocks = [problem.blocks[name] for name in stage.get("blocks", ())]
        layers += [{}, problem.shared, *blocks, own]

    merged: dict[str, Any] = {}
    for layer in layers:
        assert not list(repeated(merged, layer))
        merged = merge(merged, layer) if layer else {}


def layers_of(file: Path, seen: set[Path]) -> Iterator[Any]:
    r"""Yields the contents of a file and its bases, the bases first, each once."""
    content = yaml.safe_load(file.read_text())
    for key in ("base", "blocks_of"):
        bases = content.pop(key, [])
        for base in [bases] if isinstance(bases, str) else bases:
            yield from layers_of(file.parent / base, seen)
    if file not in seen:
        yield content
    seen.add(file)


def repeated(base: Any, over: Any, keys: str = "") -> Iterator[str]:
    r"""Yields where an overlay names a class that stands there already."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return
    if "class_path" in base and "class_path" in over:
        if base["class_path"] == over["class_path"]:
            yield f"{keys}: {over['class_path']}"
        base = {}  # another class has other arguments
    for key in base.keys() & over.keys():
        yield from repeated(base[key], over[key], f"{keys}.{key}")


@pytest.mark.parametrize("file", PROBLEMS, ids=lambda file: file.stem)
def test_every_stage_has_a_configuration_and_some_parse(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    problem = Problem(file)
    stages = {name: stage["verb"] for name, stage in problem.stages.items()}
    assert all(problem.config(name) for name in stages)

    runs = [name for name, verb in stages.items() if verb != "report"]
    name = random.Random(file.stem).choice(runs)
    config = parse([stages[name], "-c", f"{file}::{name}"])
    write("plain.yaml", config)
    assert parse([stages[name], "-c", "plain.yaml"]) == config


@pytest.mark.slow
@pytest.mark.parametrize("file", PROBLEMS, ids=lambda file: file.stem)
def test_every_stage_parses(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(file), "--dry-run"]) is None
