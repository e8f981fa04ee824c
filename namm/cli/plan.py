r"""The stages of a problem, read and parsed: each is a job, one plain command of `namm`."""

__all__ = ["STEPS", "Job", "changes", "flat", "plan", "reads"]

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shlex import join
from typing import Any

from ..training.io import atomic, check_inside
from ..training.records import read_record
from ..training.weights import find, is_record
from . import lightning as cli
from .configs import mapped, problem_at, runs_of
from .errors import CommandError

STEPS = ("max_steps", "max_epochs")
NO_WORK = re.compile(
    r"started\.json|events\.out\.tfevents\..*|hparams\.yaml|\.namm\.lock|\..*\.part"
)
RECORDS: dict[str, dict[str, type]] = {  # the keys of the records of a stage
    "started.json": {"key": str, "inputs": dict, "config": dict, "begun": float, "spent": float},
    "finished.json": {"key": str, "seconds": float},
}


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
        r"""The hash of what the results depend on. A training for more steps or for fewer has the
        same key, since it goes on."""
        trainer = {k: v for k, v in self.config.get("trainer", {}).items() if k not in STEPS}
        config = {**self.config, "trainer": trainer}
        content = json.dumps([self.argv[0], config, self.inputs], sort_keys=True, default=str)
        return sha256(content.encode()).hexdigest()

    def files(self) -> dict[Path, int]:
        r"""Returns the files in the folder of the stage that its work left, and the times at which
        they were written."""
        found = (file for file in self.folder.rglob("*") if file.is_file())
        return {f: f.stat().st_mtime_ns for f in found if not NO_WORK.fullmatch(f.name)}

    def read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        return read_record(file, **RECORDS[name]) if file.exists() else {}

    def write(self, name: str, **content: Any) -> None:
        content = {"command": f"namm {join(self.argv)}", "key": self.key, **content}
        with atomic(self.folder / name) as file:
            file.write(json.dumps(content, indent=2, default=str).encode())


def plan(problem: Path, scale: str | None, pretrained: bool = False) -> list[Job]:
    r"""Reads the stages of a problem and parses the configurations of all, so that a mistake in
    the last one shows before the first one runs.

    Arguments:
        problem: The file of the problem, with or without its suffix.
        scale: The scale, if any: `demo` is the file `PROBLEM.demo.yaml`.
        pretrained: Whether to take the weights shipped for the problem, and leave out the stages
            that would make them. A stage that needs weights of which only the record is shipped
            is left out, and a line says so.
    """
    file = problem_at(problem, scale)
    jobs: list[Job] = []
    for name, stage in file.stages.items():
        verb, config = stage["verb"], file.config(name)
        if pretrained and verb in ("fit", "predict"):
            continue
        runs = runs_of(config)
        argv, inputs = [verb, "-c", f"{file.path}::{name}"], dict[str, str]()
        if pretrained:
            options, inputs, lacking = shipped(name, file.path.name.split(".")[0], config, runs)
            if lacking:
                print(f"'{name}' is left out: the weights of {lacking[0]} are not shipped.")
                continue
            runs = runs.with_name(f"{runs.name}-pretrained")
            argv += ["--trainer.logger.name", runs.name, *options]
        if verb == "report":
            jobs.append(Job(name, [verb, str(runs)], runs))
            continue
        try:
            job = Job(name, argv, runs, cli.parse(argv), inputs)
        except CommandError as error:
            raise CommandError(f"stage '{name}': {error}") from error
        check_inside(job.folder, runs)
        for earlier in jobs:
            if reads(job.config, earlier.folder):
                job.inputs[earlier.name] = earlier.key
        # Not in the key: a stage that was stopped is the same stage.
        argv += ["--ckpt_path", "last"] if verb == "fit" else []
        jobs.append(job)
    return jobs


def shipped(
    name: str, problem: str, config: dict[str, Any], runs: Path
) -> tuple[list[str], dict[str, str], list[str]]:
    r"""Returns the options that put the files of shipped weights in place of the checkpoints in a
    configuration, the hashes of these files, and the stages among them of which only the record
    is shipped.

    Arguments:
        name: The name of the stage.
        problem: The name of the problem.
        config: The configuration of the stage.
        runs: The folder of all runs, in which the checkpoints are.
    """
    pattern = re.compile(rf"{re.escape(str(runs))}/([^/]+)/checkpoints/last\.ckpt")
    files: dict[str, Path] = {}

    def weights_of(match: re.Match[str]) -> str:
        path = Path("pretrained", problem, f"{match[1]}.safetensors")
        if (file := find(path)) is None:
            raise CommandError(f"stage '{name}' needs {path}, which is not shipped: train it.")
        files[match[1]] = file
        return str(path)

    options = changes(config, lambda text: pattern.sub(weights_of, text))
    inputs = {stage: sha256(file.read_bytes()).hexdigest() for stage, file in files.items()}
    return options, inputs, [stage for stage, file in files.items() if is_record(file)]


def changes(config: Any, change: Callable[[str], str]) -> list[str]:
    r"""Returns the options that change the texts of a configuration.

    Arguments:
        config: The configuration.
        change: Returns the new text of a text.
    """
    options = []
    for key, value in flat(config).items():
        if (new := mapped(value, change)) != value:
            options.append(f"--{key}={new if isinstance(new, str) else json.dumps(new)}")
    return options


def reads(config: Any, folder: Path) -> bool:
    r"""Returns whether a text in a configuration is a path in a folder."""
    if isinstance(config, (dict, list)):
        values = config.values() if isinstance(config, dict) else config
        return any(reads(value, folder) for value in values)
    return isinstance(config, str) and Path(config).absolute().is_relative_to(folder.absolute())


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    r"""Returns the values of a nested configuration by their dotted keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    inner = (flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in config.items())
    return {key: value for values in inner for key, value in values.items()}
