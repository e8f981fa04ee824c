r"""The verb `run`: the stages of a problem in order, each exactly once.

A stage is nothing but a plain command, such as `namm fit -c configs/burgers.demo.yaml::namm`. Its
configuration stands in the file of the problem (see `namm.cli.configs`). A stage is finished when
its run folder says so, in `finished.json`, under its key: a hash of its whole configuration and of
the keys of those earlier stages whose folders it reads. So the results of two configurations are
never mixed.

With `--pretrained`, stages that train are left out, and the checkpoint of such a stage, where
another stage reads it, is `pretrained/PROBLEM/STAGE.safetensors`.
"""

__all__ = ["main", "run_once"]

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import count
from math import inf
from pathlib import Path
from shlex import join

from constraints import InputError

from ..training.folder import locked
from ..training.io import atomic
from ..training.recipes import modules_of
from ..training.trust import trusting
from . import lightning as cli
from .errors import CommandError, Interrupted
from .parser import parse_run
from .plan import STEPS, Job, flat, plan
from .reader import refuse
from .rehearsal import rehearse
from .report import REPORT, report


def main(argv: Sequence[str]) -> None:
    r"""Runs the stages of a problem that are not finished.

    Arguments:
        argv: The options of the verb.
    """
    options = parse_run(argv)
    again = f"namm run {options.problem}" + (f" --scale {options.scale}" if options.scale else "")
    again += " --pretrained" if options.pretrained else ""
    again += "".join(f" --trust {module}" for module in options.trust)
    jobs = plan(options.problem, options.scale, options.pretrained)
    for job in jobs:
        job.argv += [word for module in options.trust for word in ("--trust", module)]
    names = [job.name for job in jobs]
    for name in filter(None, (options.first, options.last)):
        if name not in names:
            mistake = f"{options.problem} has no stage '{name}'; its stages: {', '.join(names)}"
            refuse("", mistake, "", name, names)
    end = names.index(options.last) + 1 if options.last else len(jobs)
    if options.first and names.index(options.first) >= end:
        raise CommandError(f"'{options.last}' comes before '{options.first}': give --from alone.")
    afresh = jobs[names.index(options.first) : end] if options.first else []

    for job in jobs[:end]:
        why = "" if job in afresh or options.dry_run else difference(job)
        if why:
            again += f" --from {job.name}"
            raise CommandError(
                f"{job.folder} holds another '{job.name}': {why}. To keep it aside, and run this "
                f"stage and all after it afresh:\n  {again}"
            )
    if not options.dry_run:
        move_aside([job for job in afresh if job.config])
    parts = [job.config.get(section) for job in jobs for section in ("model", "data")]
    with trusting({*options.trust, *modules_of(parts)}):
        if options.dry_run:
            rehearse(jobs[:end])
        run_all(jobs, end, afresh, options, again)


def run_all(
    jobs: Sequence[Job], end: int, afresh: Sequence[Job], options: Namespace, again: str
) -> None:
    r"""Runs the stages that are not finished, in order.

    Arguments:
        jobs: All stages of the problem.
        end: The number of stages that are wanted.
        afresh: The stages that are run even if they are finished.
        options: The options of the verb.
        again: The command that continues after a stop.
    """
    for number, job in enumerate(jobs[:end], start=1):
        print(f"[{number}/{len(jobs)}] namm {join(job.argv)}", flush=True)
        finished = {} if job in afresh else job.read("finished.json")
        if finished:
            other = "".join(f", where {change}" for change in steps(job))
            print(f"    finished in {finished['seconds']:.0f} s, skipped{other}", flush=True)
        elif not options.dry_run:
            try:
                print(f"    {job.name}: {run(job, options.replace):.0f} s", flush=True)
            except Interrupted as stop:
                again += f" --to {options.last}" if options.last else ""
                message = f"'{job.name}' was stopped. To continue:\n  {again}"
                raise Interrupted(message, stop.code) from stop


def difference(job: Job) -> str:
    r"""Returns how the folder of a stage differs from the results of the stage; nothing if
    the stage is finished, can go on, or has not begun."""
    if not job.config or not job.files():
        return ""
    before = job.read("started.json")
    if not before:
        return "it was not made by `namm run`"
    if before["key"] == job.key:
        for name in job.inputs:
            if replace(job, name=name).read("started.json").get("begun", 0) > before["begun"]:
                return f"its input '{name}' was made anew after it"
        return ", ".join(steps(job, more=True)) if job.read("finished.json") else ""
    for name in {**before["inputs"], **job.inputs}:
        if before["inputs"].get(name) != job.inputs.get(name):
            return f"its input '{name}' has changed"
    old, new = flat(before["config"]), flat(job.config)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    changed = [f"{key} was {old.get(key)} and is {new.get(key)}" for key in keys[:3]]
    return ", ".join(changed) or "its verb or an empty section of its configuration has changed"


def steps(job: Job, more: bool = False) -> list[str]:
    r"""Returns how the number of steps of a training differs from the number when it began.

    Arguments:
        job: The stage.
        more: Whether to return the numbers alone that have risen.
    """
    if job.argv[0] != "fit":
        return []
    configs = job.read("started.json").get("config", {}), job.config
    old, new = ({k: c.get("trainer", {}).get(k) for k in STEPS} for c in configs)
    keys = [k for k in STEPS if (limit(old[k]) < limit(new[k]) if more else old[k] != new[k])]
    return [f"trainer.{k} was {old[k]} and is {new[k]}" for k in keys]


def limit(steps: int | None) -> float:
    r"""Returns a number of steps, of which `None` and -1 mean that there is no last one."""
    return inf if steps in (None, -1) else steps


def move_aside(jobs: Sequence[Job]) -> None:
    r"""Moves the folders of stages, where they exist, to the same places below `<runs>.old-N`, and
    the report on them too."""
    jobs = [job for job in jobs if job.folder.exists()]
    for job in jobs:
        with locked(job.folder):  # where another command works, nothing is moved
            pass
    for runs in {job.runs for job in jobs}:
        aside = next(path for n in count(1) if not (path := Path(f"{runs}.old-{n}")).exists())
        names = [job.name for job in jobs if job.runs == runs]
        for name in [*names, *(name for name in REPORT if (runs / name).exists())]:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (runs / name).rename(aside / name)
            print(f"moved {runs / name} to {aside / name}", flush=True)


def run_once(job: Job, title: str, remedy: str) -> None:
    r"""Runs a stage that is not finished, of a series that can be stopped and given again.

    Arguments:
        job: The stage.
        title: The text that is printed before its command.
        remedy: The advice where its folder holds something else, as a sentence.

    Raises:
        InputError: If its folder holds something else.
    """
    finished = job.read("finished.json")
    # a series compares trainings of different steps: fewer steps are another training
    if why := difference(job) or (", ".join(steps(job)) if finished else ""):
        raise InputError(f"{job.folder} holds another '{job.name}': {why}. {remedy}")
    if not finished:
        print(f"{title}namm {join(job.argv)}", flush=True)
        run(job)


def run(job: Job, replace: bool = False) -> float:
    r"""Runs a stage and records it.

    Arguments:
        job: The stage.
        replace: Whether a test, a prediction or a report may replace files.

    Returns:
        The seconds of the stage, and of former attempts up to the checkpoint that was kept.
    """
    begun = time.time()
    if not job.config:
        report(job.folder, replace=replace)
        return time.time() - begun
    option = ["--replace"] if replace and job.argv[0] in ("test", "predict") else []
    with locked(job.folder):
        before, last = job.read("started.json"), job.folder / "checkpoints" / "last.ckpt"
        spent = 0.0
        if before and last.exists():
            spent = before["spent"] + max(0.0, last.stat().st_mtime - before["begun"])
        with started(job):
            job.write(
                "started.json", begun=begun, spent=spent, inputs=job.inputs, config=job.config
            )
            cli.main([*job.argv, *option])
        seconds = spent + time.time() - begun
        times = {"started": datetime.fromtimestamp(begun), "finished": datetime.now()}
        job.write("finished.json", seconds=seconds, **times)
    return seconds


@contextmanager
def started(job: Job) -> Iterator[None]:
    r"""Leaves `started.json` as it was if the stage fails before it has done anything."""
    file, files = job.folder / "started.json", job.files()
    before = file.read_bytes() if file.exists() else None
    try:
        yield
    except BaseException:
        if job.files() == files:
            file.unlink(missing_ok=True)
            if before is not None:
                with atomic(file) as out:
                    out.write(before)
        raise
