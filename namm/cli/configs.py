r"""The configurations of the stages of a problem, which stand in one file and its bases.

    base: [stages.yaml, demo.yaml]      # merged before this file, key by key: the later one wins
    blocks_of: other.yaml               # likewise, but its blocks alone
    shared:                             # goes into every stage
      data: {class_path: datamodules.BurgersData, init_args: {constraint: $constraint}}
    blocks:                             # the parts of stages; $NAME is the block of that name
      constraint: {class_path: constraints.Burgers}
      namm: {model: {class_path: namm.NAMM, init_args: {constraint: $constraint}}}
    stages:                             # in order
      namm: {verb: fit, blocks: [namm], trainer: {max_steps: 500}}
      "{task}/{solver}":                # one stage for each pair
        matrix: {task: [height, obstacle], solver: [dps, dsg]}
        verb: test
        blocks: [inverse, "{task}", "{solver}"]
      report: {verb: report}

`-c FILE::STAGE` gives a command the configuration of a stage: the shared part, then the blocks of
the stage in their order, then the other keys of the stage. Where a class is exchanged, the
arguments of the class before are dropped. The run folder is the name of the stage in the folder of
the file, `runs/burgers-demo` for `burgers.demo.yaml`; in texts, `{runs}` is that folder. A text
that names a YAML file is relative to the file in which it stands. A stage that is null is left
out.
"""

__all__ = [
    "Problem",
    "configs",
    "expand",
    "file_of",
    "is_problem",
    "mapped",
    "merge",
    "problem_at",
    "runs_of",
    "stage_of",
]

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from os.path import normpath
from pathlib import Path
from typing import Any

import yaml

from .reader import Key, KeyLoader, read_config, refuse
from .shapes import check_keys, check_stage, check_texts

BASES = ("base", "blocks_of")
KEYS = (*BASES, "shared", "blocks", "stages")
LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"
Config = dict[str, Any]


class Loader(KeyLoader):
    r"""Loads YAML as jsonargparse does, where 1e-3 is a number."""


class Dumper(yaml.SafeDumper):
    r"""Writes the keys that know their places."""


Dumper.add_representer(Key, yaml.SafeDumper.represent_str)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


class Problem:
    r"""Creates the stages of a problem.

    Arguments:
        path: The file.

    Raises:
        CommandError: If the file, or one of its bases, cannot be understood.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = self.read(path)
        blocks = content.get("blocks", {})
        self.blocks = {name: self.refer(name, block, blocks) for name, block in blocks.items()}
        self.shared = self.refer("shared", content.get("shared", {}), blocks)
        self.stages: dict[str, Config] = {}
        for key, entry in content.get("stages", {}).items():
            if entry is None:
                self.stages.pop(key, None)
                continue
            check_stage(key, entry)
            for name, stage in combinations(key, entry):
                self.stages[name] = self.refer(name, stage, blocks)
        if not self.stages:
            refuse("", f"{path} names no stages: give 'stages: {{NAME: {{verb: ...}}}}'")

    def read(self, file: Path, at: str = "", above: tuple[Path, ...] = ()) -> Config:
        r"""Returns the content of a file, merged over its bases."""
        if file in above:
            refuse(at, f"{file} is a base of itself", at)
        content = read_config(file, Loader, at, at)
        merged: Config = {}
        for key, value in content.items():
            if key not in KEYS:
                refuse("", f"{file} has no key '{key}'", key, key, KEYS)
            if key not in BASES:
                check_keys(key, value, key)
                continue
            for base in check_texts(key, value, key):
                found = self.read(Path(normpath(file.parent / base)), key, (*above, file))
                found = found if key == "base" else {"blocks": found.get("blocks", {})}
                merged = merge(merged, found)
        own = {key: value for key, value in content.items() if key not in BASES}
        return dict(merge(merged, mapped(own, lambda text: beside(text, file))))

    def refer(self, name: str, part: Any, blocks: Config, above: tuple[str, ...] = ()) -> Any:
        r"""Returns a part with the blocks to which it refers in their places."""

        def block(text: str) -> Any:
            if not text.startswith("$"):
                return text
            key = text[1:]
            if key not in blocks or key in above:
                mistake = "refers to itself" if key in above else f"there is no block '{key}'"
                refuse(name, mistake, name, key, {*blocks} - {key})
            key = next(name for name in blocks if name == key)  # which knows its place
            return self.refer(key, blocks[key], blocks, (*above, key))

        return mapped(part, block)

    def config(self, name: str) -> Config:
        r"""Returns the configuration of a stage."""
        if name not in self.stages:
            mistake = f"{self.path} has no stage '{name}'; its stages: {', '.join(self.stages)}"
            refuse("", mistake, "", name, self.stages)
        stage, config = self.stages[name], self.shared
        at = next(stage for stage in self.stages if stage == name)  # which knows its place
        for key in check_texts(f"{name}.blocks", stage.get("blocks", []), at):
            if key not in self.blocks:
                refuse(name, f"there is no block '{key}'", at, key, self.blocks)
            config = merge(config, check_keys(f"blocks.{key}", self.blocks[key], at))
        own = {key: value for key, value in stage.items() if key not in ("verb", "blocks")}
        config = merge(config, own)
        trainer = check_keys(f"{name}.trainer", config.get("trainer", {}), at)
        logger = check_keys(f"{name}.trainer.logger", trainer.get("logger", {}), at)
        given = check_keys(f"{name}.trainer.logger.init_args", logger.get("init_args", {}), at)
        known = {"save_dir": "runs", "name": self.title, "version": name, **given}
        logger = {"class_path": LOGGER, **logger, "init_args": known}
        config = {**config, "trainer": {**trainer, "logger": logger}}
        runs = str(runs_of(config))
        return dict(mapped(config, lambda text: text.replace("{runs}", runs)))

    @property
    def title(self) -> str:
        return self.path.name.removesuffix(".yaml").replace(".", "-")


def runs_of(config: Config) -> Path:
    r"""Returns the folder of all runs, as the configuration of a stage gives it."""
    logger = config["trainer"]["logger"]["init_args"]
    return Path(str(logger["save_dir"]), str(logger["name"]))


def merge(base: Any, over: Any) -> Any:
    r"""Returns a configuration with another one over it, key by key. Where a class is exchanged,
    the arguments of the class before are dropped."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    old = base.get("class_path")
    if old not in (None, over.get("class_path", old)):
        base = {key: value for key, value in base.items() if key != "init_args"}
    later = {key: key for key in over}  # a key knows its place: the later one counts
    kept = {later.get(key, key): value for key, value in base.items()}
    return kept | {key: merge(base.get(key), value) for key, value in over.items()}


def mapped(part: Any, change: Callable[[str], Any]) -> Any:
    r"""Returns a copy of a configuration with each of its texts changed."""
    if isinstance(part, dict):
        return {key: mapped(value, change) for key, value in part.items()}
    if isinstance(part, list):
        return [mapped(value, change) for value in part]
    return change(part) if isinstance(part, str) else part


def beside(text: str, file: Path) -> str:
    r"""Returns the path of a YAML file that a text names, relative to a file."""
    path = normpath(file.parent / text) if text.endswith((".yaml", ".yml")) else ""
    return path if path and Path(path).is_file() else text


def combinations(key: str, entry: Config) -> Iterator[tuple[str, Config]]:
    r"""Yields the stages of an entry: one, or one for each combination of the values in its
    `matrix`, which stand for their names in braces."""
    matrix: Mapping[str, list[Any]] = entry.get("matrix", {})
    entry = {name: value for name, value in entry.items() if name != "matrix"}
    for values in product(*matrix.values()):
        chosen = dict(zip(matrix, map(str, values), strict=True))

        def filled(text: str, chosen: dict[str, str] = chosen) -> str:
            for name, value in chosen.items():
                text = text.replace(f"{{{name}}}", value)
            return text

        yield filled(key), mapped(entry, filled)


def file_of(problem: Path, scale: str | None) -> Path:
    r"""Returns the file of a problem, given with or without its suffix, at a scale."""
    stem = str(problem).removesuffix(".yaml")
    return Path(f"{stem}.{scale}.yaml" if scale else f"{stem}.yaml")


def problem_at(problem: Path, scale: str | None) -> Problem:
    r"""Returns the stages of a problem, given with or without the suffix of its file, at a scale,
    or refuses a scale that the problem does not have."""
    path = file_of(problem, scale)
    others = path.parent.glob(f"{file_of(problem, None).stem}.*.yaml")
    scales = sorted(other.name.split(".")[-2] for other in others)
    if scale and scales and not path.is_file():
        mistake = f"{problem} has no scale '{scale}'; its scales: {', '.join(scales)}"
        refuse("", mistake, "", scale, scales)
    return Problem(path)


def is_problem(word: str) -> bool:
    r"""Returns whether a word names a problem, as FILE::STAGE or as a file that exists."""
    if "::" in word or not word.endswith((".yaml", ".yml")) or not Path(word).is_file():
        return "::" in word
    text = Path(word).read_text("utf-8", "replace")
    return bool(re.search(rf"^({'|'.join(KEYS)}):", text, re.MULTILINE))


def stage_of(word: str) -> tuple[Problem, str]:
    r"""Returns the problem and the stage that FILE::STAGE names; the first stage for a file."""
    file, _, stage = word.partition("::")
    problem = Problem(Path(file))
    return problem, stage or next(iter(problem.stages))


def expand(argv: Sequence[str], keys: Collection[str] | None = None) -> list[str]:
    r"""Returns a command with the configuration itself in place of each FILE::STAGE.

    Arguments:
        argv: The command.
        keys: The sections of the configuration that are wanted; all if missing.
    """
    words = []
    for flag, word in configs(argv):
        if flag and is_problem(word):
            problem, stage = stage_of(word)
            if "::" not in word and keys is None:
                refuse("", f"{word} holds stages: give one of them, as {word}::{stage}")
            config = problem.config(stage)
            wanted = {key: config[key] for key in config if keys is None or key in keys}
            word = yaml.dump(wanted, Dumper=Dumper, sort_keys=False)
        words += [flag, word] if flag else [word]
    return words


def configs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    r"""Yields the words of a command, each configuration with the flag before it."""
    flag = ""
    for word in argv:
        name, equals, value = word.partition("=")
        if not flag and equals and name in ("-c", "--config"):
            yield name, value
        elif not flag and word in ("-c", "--config"):
            flag = word
        else:
            yield flag, word
            flag = ""
    if flag:
        yield "", flag
