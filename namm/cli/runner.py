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
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from shlex import join

from constraints import InputError

from ..training.recipes import modules_of
from ..training.trust import trusting
from . import lightning as cli
from .errors import CommandError, Interrupted
from .parser import parse_run
from .plan import Job, flat, plan
from .reader import refuse
from .report import report


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
            print(f"    finished in {finished['seconds']:.0f} s, skipped", flush=True)
        elif not options.dry_run:
            try:
                print(f"    {job.name}: {run(job):.0f} s", flush=True)
            except Interrupted as stop:
                again += f" --to {options.last}" if options.last else ""
                message = f"'{job.name}' was stopped. To continue:\n  {again}"
                raise Interrupted(message, stop.code) from stop


def difference(job: Job) -> str:
    r"""Returns how the folder of a stage differs from the results of the stage; nothing if
    the stage is finished, can go on, or has not begun."""
    if not job.config or not job.folder.exists() or not any(job.folder.iterdir()):
        return ""
    before = job.read("started.json")
    if not before:
        return "it was not made by `namm run`"
    if before["key"] == job.key:
        for name in job.inputs:
            if replace(job, name=name).read("started.json").get("begun", 0) > before["begun"]:
                return f"its input '{name}' was made anew after it"
        return ""
    for name in {**before["inputs"], **job.inputs}:
        if before["inputs"].get(name) != job.inputs.get(name):
            return f"its input '{name}' has changed"
    old, new = flat(before["config"]), flat(job.config)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    changed = [f"{key} was {old.get(key)} and is {new.get(key)}" for key in keys[:3]]
    return ", ".join(changed) or "its verb or an empty section of its configuration has changed"


def move_aside(jobs: Sequence[Job]) -> None:
    r"""Moves the folders of stages, where they exist, to the same places below `<runs>.old-N`."""
    for runs in {job.runs for job in jobs}:
        aside = next(path for n in count(1) if not (path := Path(f"{runs}.old-{n}")).exists())
        for job in jobs:
            if job.runs == runs and job.folder.exists():
                (aside / job.name).parent.mkdir(parents=True, exist_ok=True)
                job.folder.rename(aside / job.name)
                print(f"moved {job.folder} to {aside / job.name}", flush=True)


def run_once(job: Job, title: str, remedy: str) -> None:
    r"""Runs a stage that is not finished, of a series that can be stopped and given again.

    Arguments:
        job: The stage.
        title: The text that is printed before its command.
        remedy: The advice where its folder holds something else, as a sentence.

    Raises:
        InputError: If its folder holds something else.
    """
    if why := difference(job):
        raise InputError(f"{job.folder} holds another '{job.name}': {why}. {remedy}")
    if not job.read("finished.json"):
        print(f"{title}namm {join(job.argv)}", flush=True)
        run(job)


def run(job: Job) -> float:
    r"""Runs a stage and records it.

    Returns:
        The seconds of the stage, and of former attempts up to the checkpoint that was kept.
    """
    begun = time.time()
    if not job.config:
        report(job.folder)
        return time.time() - begun
    before, last = job.read("started.json"), job.folder / "checkpoints" / "last.ckpt"
    spent = 0.0
    if before and last.exists():
        spent = before["spent"] + max(0.0, last.stat().st_mtime - before["begun"])
    job.write("started.json", begun=begun, spent=spent, inputs=job.inputs, config=job.config)
    cli.main(job.argv)
    seconds = spent + time.time() - begun
    times = {"started": datetime.fromtimestamp(begun), "finished": datetime.now()}
    job.write("finished.json", seconds=seconds, **times)
    return seconds
