r"""The verb `run`: the stages of a problem in order, each exactly once.

A problem is a folder with a `run.yaml`, which names its stages in order:

    stages:
      namm: {verb: fit, configs: [data.yaml, namm.yaml]}
      samples: {verb: predict, configs: [data.yaml, mdm.yaml], args: ["--ckpt_path={runs}/..."]}
      report: {verb: report}

With `include: ../stages.yaml` the stages of another file come first, without those that this one
names itself.

A stage is nothing but a plain command: `namm fit -c ../trainer.yaml -c data.yaml -c namm.yaml`,
its run folder, and its own arguments, in which `{runs}` stands for the folder of all stages. With
a scale, each file is followed by the file of the same name in the folder of that scale, if there
is one. A stage is finished when its run folder says so, in `finished.json`, under its key: a hash
of its whole configuration and of the keys of those earlier stages whose folders it reads. So the
results of two configurations are never mixed.

With `--pretrained`, stages that train are left out, and each checkpoint of theirs that another
stage names, `{runs}/STAGE/checkpoints/last.ckpt`, is `pretrained/PROBLEM/STAGE.safetensors`.
"""

__all__ = ["main"]

import json
import re
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from itertools import count
from os.path import normpath
from pathlib import Path
from shlex import join
from typing import Any

import yaml

from constraints import InputError

from ..training.io import atomic
from ..training.weights import find, is_record
from . import lightning as cli
from .errors import CommandError, Interrupted, nearest
from .explain import unreadable
from .parser import VerbParser
from .report import report

KEYS = ("verb", "configs", "args")
VERBS = ("fit", "validate", "test", "predict", "report")
CHECKPOINT = re.compile(r"\{runs\}/([^/]+)/checkpoints/last\.ckpt")


@dataclass
class Stage:
    r"""A stage as one command, and what its results depend on."""

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


def main(argv: Sequence[str]) -> None:
    r"""Runs the stages of a problem that are not finished.

    Arguments:
        argv: The options of the verb.
    """
    options = parse(argv)
    again = f"namm run {options.problem}" + (f" --scale {options.scale}" if options.scale else "")
    again += " --pretrained" if options.pretrained else ""
    stages = plan(options.problem, options.scale, options.pretrained)
    names = [stage.name for stage in stages]
    for name in filter(None, (options.first, options.last)):
        if name not in names:
            raise CommandError(f"{options.problem} has no stage '{name}'.{nearest(name, names)}")
    end = names.index(options.last) + 1 if options.last else len(stages)
    if options.first and names.index(options.first) >= end:
        raise CommandError(
            f"there is nothing from '{options.first}' to '{options.last}', which comes first: "
            "exchange --from and --to, or leave one out."
        )
    afresh = stages[names.index(options.first) : end] if options.first else []

    for stage in stages[:end]:
        why = "" if stage in afresh or options.dry_run else difference(stage)
        if why:
            raise CommandError(
                f"{stage.folder} holds another '{stage.name}': {why}. To run this stage and all "
                f"after it afresh, and keep the old ones aside:\n  {again} --from {stage.name}"
            )
    if not options.dry_run:
        move_aside([stage for stage in afresh if stage.config])
    for number, stage in enumerate(stages[:end], start=1):
        print(f"[{number}/{len(stages)}] namm {join(stage.argv)}", flush=True)
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
    parser = VerbParser(prog="namm run", description="Run the stages of a problem in order.")
    parser.add_argument("problem", type=Path, help="the folder that holds run.yaml")
    parser.add_argument("--scale", help="a folder of overlays in it, for example demo")
    parser.add_argument(
        "--pretrained", action="store_true", help="train nothing, take the shipped weights"
    )
    parser.add_argument(
        "--from", dest="first", metavar="STAGE", help="run this stage and all after it afresh"
    )
    parser.add_argument("--to", dest="last", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--dry-run", action="store_true", help="show the commands, run none")
    return parser.parse_args(argv)


def plan(problem: Path, scale: str | None, pretrained: bool = False) -> list[Stage]:
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
    stages: list[Stage] = []
    for name, entry in listed:
        files = config_files(name, problem, scale, entry.get("configs", []))
        runs = save_dir(files) / title
        if entry["verb"] == "report":
            stages.append(Stage(name, ["report", str(runs)], runs))
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
            stage = Stage(name, argv, runs, cli.parse(argv), inputs)
        except CommandError as error:
            raise CommandError(f"stage '{name}': {error}") from error
        for earlier in stages:
            if any(reads(text, earlier.folder) for text in texts(stage.config)):
                stage.inputs[earlier.name] = earlier.key
        # Not in the key: a stage that was stopped is the same stage.
        argv += ["--ckpt_path", "last"] if entry["verb"] == "fit" else []
        stages.append(stage)
    return stages


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
    content = read(file)
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


def read(file: Path) -> Any:
    r"""Returns the content of a YAML file."""
    try:
        return yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise CommandError(unreadable(["run", "-c", str(file)]) or f"{file}: {error}") from error


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
        section = read(file)
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


def difference(stage: Stage) -> str:
    r"""Returns in what the folder of a stage differs from what the stage would make; nothing if
    the stage is finished, can go on, or has not begun."""
    if not stage.config or not stage.folder.exists() or not any(stage.folder.iterdir()):
        return ""
    before = stage.read("started.json")
    if not before:
        return "it was not made by `namm run`"
    if before["key"] == stage.key:
        for name in stage.inputs:
            if replace(stage, name=name).read("started.json").get("begun", 0) > before["begun"]:
                return f"its input '{name}' was made anew after it"
        return ""
    for name in {**before["inputs"], **stage.inputs}:
        if before["inputs"].get(name) != stage.inputs.get(name):
            return f"its input '{name}' has changed"
    old, new = flat(before["config"]), flat(stage.config)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    changed = [f"{key} was {old.get(key)} and is {new.get(key)}" for key in keys[:3]]
    return ", ".join(changed) or "its verb or an empty section of its configuration has changed"


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    r"""Returns the values of a nested configuration by their dotted keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    inner = (flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in config.items())
    return {key: value for values in inner for key, value in values.items()}


def move_aside(stages: Sequence[Stage]) -> None:
    r"""Moves the folders of stages, where they exist, to the same places below `<runs>.old-N`."""
    for runs in {stage.runs for stage in stages}:
        aside = next(path for n in count(1) if not (path := Path(f"{runs}.old-{n}")).exists())
        for stage in stages:
            if stage.runs == runs and stage.folder.exists():
                (aside / stage.name).parent.mkdir(parents=True, exist_ok=True)
                stage.folder.rename(aside / stage.name)
                print(f"moved {stage.folder} to {aside / stage.name}", flush=True)


def run_once(stage: Stage, title: str, remedy: str) -> None:
    r"""Runs a stage that is not finished, of a series that can be stopped and given again.

    Arguments:
        stage: The stage.
        title: What is printed before its command.
        remedy: What to do where its folder holds something else, as a sentence.

    Raises:
        InputError: If its folder holds something else.
    """
    if why := difference(stage):
        raise InputError(f"{stage.folder} holds another '{stage.name}': {why}. {remedy}")
    if not stage.read("finished.json"):
        print(f"{title}namm {join(stage.argv)}", flush=True)
        run(stage)


def run(stage: Stage) -> float:
    r"""Runs a stage and records it.

    Returns:
        The seconds it took, with those of former attempts up to the checkpoint that was kept.
    """
    begun = time.time()
    if not stage.config:
        report(stage.folder)
        return time.time() - begun
    before, last = stage.read("started.json"), stage.folder / "checkpoints" / "last.ckpt"
    spent = 0.0
    if before and last.exists():
        spent = before["spent"] + max(0.0, last.stat().st_mtime - before["begun"])
    stage.write("started.json", begun=begun, spent=spent, inputs=stage.inputs, config=stage.config)
    cli.main(stage.argv)
    seconds = spent + time.time() - begun
    times = {"started": datetime.fromtimestamp(begun), "finished": datetime.now()}
    stage.write("finished.json", seconds=seconds, **times)
    return seconds
