r"""The stages of a problem, read and parsed: each is a job, one plain command of `namm`."""

__all__ = ["Job", "entries", "flat", "plan", "reads", "texts"]

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from os.path import normpath
from pathlib import Path
from shlex import join
from typing import Any

from ..training.io import atomic
from ..training.weights import find, is_record
from . import lightning as cli
from .errors import CommandError, nearest
from .reader import read_config

KEYS = ("verb", "configs", "args")
VERBS = ("fit", "validate", "test", "predict", "report")
CHECKPOINT = re.compile(r"\{runs\}/([^/]+)/checkpoints/last\.ckpt")


@dataclass
class Job:
    r"""A stage of a problem as one command, and what its results depend on."""

    name: str
    argv: list[str]
    runs: Path
    config: dict[str, Any] = field(default_factory=dict)  # none for a report
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.runs / self.name if self.config else self.runs

    @property
    def key(self) -> str:
        content = json.dumps([self.argv[0], self.config, self.inputs], sort_keys=True, default=str)
        return sha256(content.encode()).hexdigest()

    def read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        return json.loads(file.read_text("utf-8")) if file.exists() else {}

    def write(self, name: str, **content: Any) -> None:
        content = {"command": f"namm {join(self.argv)}", "key": self.key, **content}
        with atomic(self.folder / name) as file:
            file.write(json.dumps(content, indent=2, default=str).encode())


def plan(problem: Path, scale: str | None, pretrained: bool = False) -> list[Job]:
    r"""Reads the stages of a problem and parses the configurations of all, so that a mistake in
    the last one shows before the first one runs.

    Arguments:
        problem: The folder that holds `run.yaml`.
        scale: The name of a folder of overlays in it, if any.
        pretrained: Whether to take the weights shipped for the problem, and leave out the stages
            that would make them. A stage that needs weights of which only the record is shipped
            is left out, and a line says so.
    """
    listed = list(entries(problem / "run.yaml"))
    if pretrained:
        listed = [item for item in listed if item[1]["verb"] not in ("fit", "predict")]
    scales = [path.name for path in problem.glob("*") if path.is_dir()]
    if scale is not None and scale not in scales:
        raise CommandError(f"{problem} has no scale '{scale}'.{nearest(scale, scales)}")
    parts = (problem.resolve().name, scale, "pretrained" if pretrained else None)
    title = "-".join(part for part in parts if part)
    jobs: list[Job] = []
    for name, entry in listed:
        files = config_files(name, problem, scale, entry.get("configs", []))
        runs = save_dir(files) / title
        if entry["verb"] == "report":
            jobs.append(Job(name, ["report", str(runs)], runs))
            continue
        argv = [entry["verb"], *(word for file in files for word in ("-c", str(file)))]
        argv += ["--trainer.logger.name", title, "--trainer.logger.version", name]
        args = [str(arg) for arg in entry.get("args", [])]
        inputs: dict[str, str] = {}
        if pretrained:
            args, inputs, lacking = shipped(name, problem.resolve().name, args)
            if lacking:
                print(f"'{name}' is left out: the weights of {lacking[0]} are not shipped.")
                continue
        argv += [arg.replace("{runs}", str(runs)) for arg in args]
        try:
            job = Job(name, argv, runs, cli.parse(argv), inputs)
        except CommandError as error:
            raise CommandError(f"stage '{name}': {error}") from error
        for earlier in jobs:
            if any(reads(text, earlier.folder) for text in texts(job.config)):
                job.inputs[earlier.name] = earlier.key
        # Not in the key: a stage that was stopped is the same stage.
        argv += ["--ckpt_path", "last"] if entry["verb"] == "fit" else []
        jobs.append(job)
    return jobs


def shipped(
    name: str, problem: str, args: Sequence[str]
) -> tuple[list[str], dict[str, str], list[str]]:
    r"""Returns the arguments of a stage with the files of shipped weights in place of checkpoints,
    the hashes of these files, and the stages among them of which only the record is shipped.

    Arguments:
        name: The name of the stage.
        problem: The name of the problem.
        args: The arguments.
    """
    files: dict[str, Path] = {}

    def file_of(match: re.Match[str]) -> str:
        path = Path("pretrained", problem, f"{match[1]}.safetensors")
        file = find(path)
        if file is None:
            raise CommandError(
                f"stage '{name}' needs {path}, and there is none: give a problem whose weights "
                f"are shipped, or train them without --pretrained."
            )
        files[match[1]] = file
        return str(path)

    args = [CHECKPOINT.sub(file_of, arg) for arg in args]
    inputs = {stage: sha256(file.read_bytes()).hexdigest() for stage, file in files.items()}
    return args, inputs, [stage for stage, file in files.items() if is_record(file)]


def entries(file: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Yields the names of the stages in `run.yaml` and what it says of them, checked.

    Arguments:
        file: The file.
        above: The files that include it.
    """
    if file in above:
        raise CommandError(f"{file} includes itself: leave out one `include`.")
    if not file.is_file():
        what = f"check the `include` of {above[-1]}" if above else "give the folder of a problem"
        raise CommandError(f"there is no {file}: {what}.")
    content = read_config(file)
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not stages:
        raise CommandError(f"{file} names no stages: expected 'stages: {{NAME: {{verb: ...}}}}'.")
    for key in content:
        if key not in ("include", "stages"):
            raise CommandError(f"{file} has no key '{key}'.{nearest(key, ('include', 'stages'))}")
    if "include" in content:
        other = Path(normpath(file.parent / str(content["include"])))
        included = entries(other, (*above, file))
        yield from ((name, entry) for name, entry in included if name not in stages)
    for name, entry in stages.items():
        if not isinstance(entry, dict):
            raise CommandError(
                f"{file}: '{name}' is {entry}, expected {{verb: ..., configs: ...}}."
            )
        for key, value in entry.items():
            if key not in KEYS:
                raise CommandError(f"{file}: '{name}' has no key '{key}'.{nearest(key, KEYS)}")
            if key != "verb" and not isinstance(value, list):
                raise CommandError(f"{file}: {key} of '{name}' is {value}, expected a list.")
        verb = str(entry.get("verb"))
        if verb not in VERBS:
            known = f"{', '.join(VERBS)}.{nearest(verb, VERBS)}"
            raise CommandError(f"{file}: the verb of '{name}' is {verb}, expected one of {known}")
        yield name, entry


def config_files(name: str, problem: Path, scale: str | None, configs: list[str]) -> list[Path]:
    r"""Returns the configurations of a stage, each followed by its overlay."""
    files = []
    for config in ("../trainer.yaml", *configs):
        file = Path(normpath(problem / config))
        if not file.exists() and config in configs:
            there = (path.name for path in file.parent.glob("*"))
            raise CommandError(f"stage '{name}': there is no file {file}.{nearest(config, there)}")
        overlay = [problem / scale / Path(config).name] if scale else []
        files += [path for path in (file, *overlay) if path.exists()]
    return files


def save_dir(files: Sequence[Path]) -> Path:
    r"""Returns the folder of all runs, which the last configuration that gives one decides."""
    given = "runs"
    for file in files:
        section: Any = read_config(file)
        for key in ("trainer", "logger", "init_args"):
            section = section.get(key) if isinstance(section, dict) else None
        given = section.get("save_dir", given) if isinstance(section, dict) else given
    return Path(given)


def texts(config: Any) -> Iterator[str]:
    r"""Yields all text values in a configuration."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from texts(value)


def reads(text: str, folder: Path) -> bool:
    r"""Returns whether a text is a path in a folder."""
    return Path(text).absolute().is_relative_to(folder.absolute())


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    r"""Returns the values of a nested configuration by their dotted keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    inner = (flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in config.items())
    return {key: value for values in inner for key, value in values.items()}
