r"""The verb `run`: the stages of a problem in order, each exactly once.

A problem is a folder with a `run.yaml`, which names its stages in order:

    stages:
      namm: {verb: fit, configs: [namm.yaml]}
      samples: {verb: predict, configs: [mdm.yaml, samples.yaml], args: [--ckpt_path, FILE]}
      report: {verb: report}

A stage is nothing but a plain command, `namm fit -c ../trainer.yaml -c namm.yaml`; with a scale,
each of its files is followed by the file of the same name in the folder of that scale, if there is
one. A stage is finished when its run folder says so, in `finished.json`, under its key: a hash of
its whole configuration and of the keys of those earlier stages whose folders it reads. So the
results of two configurations are never mixed.
"""

__all__ = ["main"]

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import count
from os.path import commonpath, normpath
from pathlib import Path
from shlex import join
from typing import Any, NoReturn

import yaml

from . import cli
from .errors import CommandError, Interrupted, nearest
from .io import atomic

KEYS = ("verb", "configs", "args")
VERBS = ("fit", "validate", "test", "predict", "report")


class Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"namm run: {message}.")


@dataclass
class Stage:
    r"""A stage as one command, with what its results depend on."""

    name: str
    argv: list[str]
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        content = json.dumps([self.argv[0], self.config, self.inputs], sort_keys=True, default=str)
        return sha256(content.encode()).hexdigest()

    @property
    def command(self) -> str:
        return f"namm {join(self.argv)}"

    def read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        return json.loads(file.read_text("utf-8")) if file.exists() else {}

    def write(self, name: str, **content: Any) -> None:
        content = {"command": self.command, "key": self.key, **content}
        with atomic(self.folder / name) as file:
            file.write(json.dumps(content, indent=2, default=str).encode())


def main(argv: Sequence[str]) -> None:
    r"""Runs the stages of a problem that are not finished.

    Arguments:
        argv: The options of the verb.
    """
    options = parse(argv)
    stages = plan(options.problem, options.scale)
    names = [stage.name for stage in stages]
    for name in filter(None, (options.first, options.last)):
        if name not in names:
            raise CommandError(f"{options.problem} has no stage '{name}'.{nearest(name, names)}")
    end = names.index(options.last) + 1 if options.last else len(stages)
    afresh = stages[names.index(options.first) : end] if options.first else []
    again = f"namm run {options.problem}" + (f" --scale {options.scale}" if options.scale else "")

    for stage in stages[:end]:
        why = "" if stage in afresh or options.dry_run else difference(stage)
        if why:
            raise CommandError(
                f"{stage.folder} holds results of another '{stage.name}': {why}. To run this stage "
                "and all after it afresh, with the old folders moved aside:\n  "
                f"{again} --from {stage.name}"
            )
    for stage in [] if options.dry_run else afresh:
        move_aside(stage)
    for number, stage in enumerate(stages[:end], start=1):
        print(f"[{number}/{len(stages)}] {stage.command}", flush=True)
        finished = {} if stage in afresh else stage.read("finished.json")
        if finished:
            print(f"    finished in {finished['seconds']:.0f} s, skipped", flush=True)
        elif not options.dry_run:
            try:
                print(f"    {stage.name}: {run(stage):.0f} s", flush=True)
            except Interrupted as stop:
                again += f" --to {options.last}" if options.last else ""
                message = f"'{stage.name}' was stopped. To continue:\n  {again}"
                raise Interrupted(message, stop.code) from stop


def parse(argv: Sequence[str]) -> Namespace:
    r"""Returns the options of the verb."""
    parser = Parser(prog="namm run", description="Run the stages of a problem in order.")
    parser.add_argument("problem", type=Path, help="the folder that holds run.yaml")
    parser.add_argument("--scale", help="a folder of overlays in it, for example demo")
    parser.add_argument(
        "--from", dest="first", metavar="STAGE", help="run this stage and all after it afresh"
    )
    parser.add_argument("--to", dest="last", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--dry-run", action="store_true", help="show the commands, run none")
    return parser.parse_args(argv)


def plan(problem: Path, scale: str | None) -> list[Stage]:
    r"""Reads the stages of a problem and parses their configurations, so that a mistake in the last
    one shows before the first one runs.

    Arguments:
        problem: The folder that holds `run.yaml`.
        scale: The name of a folder of overlays in it, if any.
    """
    scales = [path.name for path in problem.glob("*") if path.is_dir()]
    if scale is not None and scale not in scales:
        raise CommandError(f"{problem} has no scale '{scale}'.{nearest(scale, scales)}")
    stages: list[Stage] = []
    for name, entry in entries(problem / "run.yaml"):
        verb, args = entry["verb"], [str(arg) for arg in entry.get("args", [])]
        if verb == "report":
            folder = Path(commonpath([stage.folder.parent for stage in stages]))
            stages.append(Stage(name, ["report", str(folder), *args], folder))
            continue
        argv = [verb]
        for file in ("../trainer.yaml", *entry.get("configs", [])):
            base = Path(normpath(problem / file))
            overlay = Path(normpath(problem / (scale or "") / file.removeprefix("../")))
            if not base.exists() and file != "../trainer.yaml":
                files = (path.name for path in base.parent.glob("*"))
                raise CommandError(f"stage '{name}': no file {base}.{nearest(base.name, files)}")
            for path in dict.fromkeys((base, overlay)):
                argv += ["-c", str(path)] if path.exists() else []
        argv += args
        try:
            config = cli.parse(argv)
        except CommandError as error:
            raise CommandError(f"stage '{name}': {error}") from error
        stage = Stage(name, argv, run_folder(name, config), config)
        for earlier in stages:
            if earlier.folder == stage.folder:
                raise CommandError(
                    f"stages '{earlier.name}' and '{name}' share the folder {stage.folder}: give "
                    "them different trainer.logger.init_args.version."
                )
            if any(reads(text, earlier.folder) for text in texts(config)):
                stage.inputs[earlier.name] = earlier.key
        # Not in the key: a stage that was stopped is the same stage.
        stage.argv += ["--ckpt_path", "last"] if verb == "fit" else []
        stages.append(stage)
    return stages


def entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Yields the stages that `run.yaml` names, checked."""
    if not file.is_file():
        raise CommandError(f"there is no {file}: give the folder of a problem.")
    content = yaml.safe_load(file.read_text("utf-8"))
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not stages:
        raise CommandError(f"{file} names no stages: expected 'stages: {{NAME: {{verb: ...}}}}'.")
    for name, entry in stages.items():
        for key in entry:
            if key not in KEYS:
                raise CommandError(f"{file}: '{name}' has no key '{key}'.{nearest(key, KEYS)}")
        verb = entry.get("verb", "nothing")
        if verb not in VERBS:
            known = ", ".join(VERBS)
            raise CommandError(f"{file}: the verb of '{name}' is {verb}: expected one of {known}.")
        yield name, entry


def run_folder(name: str, config: dict[str, Any]) -> Path:
    r"""Returns the folder in which the stage with this configuration leaves its results."""
    logger = config["trainer"]["logger"]
    logger = logger[0] if isinstance(logger, list) else logger
    where = logger.get("init_args", {}) if isinstance(logger, dict) else {}
    if not isinstance(where.get("version"), str):
        raise CommandError(
            f"stage '{name}' has no folder of its own: give trainer.logger.init_args.version."
        )
    return Path(normpath(Path(where["save_dir"], where.get("name") or "", where["version"])))


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


def difference(stage: Stage) -> str:
    r"""Returns how what a stage's folder holds differs from what the stage would make, or nothing if
    the stage is finished, can go on, or has not begun."""
    if stage.argv[0] == "report" or not stage.folder.exists() or not any(stage.folder.iterdir()):
        return ""
    before = stage.read("started.json")
    if not before:
        return "it was not made by `namm run`"
    if before["key"] == stage.key:
        return ""
    for name in {**before["inputs"], **stage.inputs}:
        if before["inputs"].get(name) != stage.inputs.get(name):
            return f"the stage '{name}', which it reads, has changed"
    old, new = flat(before["config"]), flat(stage.config)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys[:3])


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    r"""Returns the values of a nested configuration by their dotted keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    items = [flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in config.items()]
    return {key: value for item in items for key, value in item.items()}


def move_aside(stage: Stage) -> None:
    r"""Gives the folder of a stage another name, if there is one."""
    if stage.argv[0] != "report" and stage.folder.exists():
        names = (stage.folder.with_name(f"{stage.folder.name}.old-{n}") for n in count(1))
        stage.folder.rename(next(name for name in names if not name.exists()))


def run(stage: Stage) -> float:
    r"""Runs a stage and records it. Returns the seconds it took, former attempts included as far as
    their work was kept."""
    if stage.argv[0] == "report":
        from .report import report

        begun = time.time()
        report(stage.folder)
        return time.time() - begun
    begun, earlier = time.time(), stage.read("started.json")
    last = stage.folder / "checkpoints" / "last.ckpt"
    spent = (
        earlier["spent"] + last.stat().st_mtime - earlier["time"]
        if earlier and last.exists()
        else 0.0
    )
    stage.write("started.json", time=begun, spent=spent, inputs=stage.inputs, config=stage.config)
    cli.main(stage.argv)
    seconds = spent + time.time() - begun
    stage.write(
        "finished.json",
        seconds=seconds,
        started=datetime.fromtimestamp(begun),
        finished=datetime.now(),
    )
    return seconds
