r"""The verb `check`: a constraint and its data, through the conformance kit.

    namm check constraints.Burgers --constraint.dt 0.25 --data data/burgers.h5
    namm check configs/burgers.yaml --json check.json
    namm check constraint.yaml --data configs/burgers.yaml

The data are a file of fields, or the configuration of a data module, which simulates its file if
it is missing. The file of a problem, or one of its stages, FILE::STAGE, gives the data of that
stage and their constraint.

The exit code is 0 if nothing fails, and 1 otherwise.
"""

__all__ = ["main"]

import json
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule
from torch import Tensor

from constraints import Constraint, Finding, InputError, check, noise, show_progress
from datamodules import FieldData, check_fits, read_attributes, read_fields

from ..training.folder import check_absent
from ..training.io import atomic
from ..training.recipes import check_classes, modules_of
from ..training.trust import trusting
from .configs import expand, is_problem, stage_of
from .constructing import constructing
from .errors import CommandError
from .explain import explain
from .parser import REPLACE, TRUST
from .plugins import load_plugins
from .reader import read_config
from .shapes import check_keys

USAGE = "namm check CONSTRAINT [--constraint.OPTION VALUE ...] --data FILE [options]"


def main(argv: Sequence[str]) -> int:
    r"""Checks a constraint and prints the findings.

    Arguments:
        argv: The options, with the constraint first: its class path, its short name, or a file.

    Returns:
        The exit code.
    """
    load_plugins()
    options, constraint = parse(argv)
    check_absent([Path(options.json)] if options.json is not None else [], options.replace)
    if options.data is not None:
        described = options.data.partition("::")[0].endswith((".yaml", ".yml"))
        with trusting(options.trust):
            file = simulate(options.data) if described else options.data
        x, floor = read(file, options.split, options.fields, constraint)
        source = f"{len(x)} fields of {file}, /{options.split}"
    else:
        keys = [(options.seed, "check", i) for i in range(options.fields)]
        x, floor = noise(keys, options.shape), 0.0
        source = f"{len(x)} fields of standard normal noise"
    findings = check(constraint, x, floor, options.data is not None, options.seed)
    failed = [finding.name for finding in findings if finding.verdict == "fail"]

    name = options.constraint.class_path
    print(f"{name} on {source}, of shape {tuple(x.shape[1:])}\n")
    print(findings_text(findings))
    print(f"\n{name} " + (f"fails: {', '.join(failed)}." if failed else "passes."))
    if options.json is not None:
        config = options.constraint.as_dict()
        config.pop("__path__", None)
        content = {
            "constraint": config,
            "data": options.data,
            "split": options.split,
            "shape": list(x.shape),
            "seed": options.seed,
            "passes": not failed,
            "findings": [finding._asdict() for finding in findings],
        }
        with atomic(options.json) as out:
            out.write(json.dumps(content, indent=2).encode())
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> tuple[Any, Constraint]:
    r"""Returns the options, and the constraint that they describe."""
    parser = ArgumentParser(
        prog="namm check", usage=USAGE, exit_on_error=False, allow_abbrev=False
    )
    parser.add_subclass_arguments(
        Constraint,
        "constraint",
        required=True,
        help="The constraint, which can be given first without a name.",
    )
    parser.add_argument(
        "--data",
        type=str | None,
        help="A file of the schema namm-field/1, or the configuration of a data module.",
    )
    parser.add_argument("--split", type=str, default="train", help="The split to read.")
    parser.add_argument("--fields", type=PositiveInt, default=4, help="The number of fields.")
    parser.add_argument(
        "--shape",
        type=list[PositiveInt] | None,
        help="Without data: the shape of a field of noise, such as [1,64,64].",
    )
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="The seed of all noise.")
    parser.add_argument("--json", type=str | None, help="A file to write the findings to.")
    parser.add_argument("--trust", **TRUST)
    parser.add_argument("--replace", action="store_true", help=REPLACE)

    argv = parts(argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--constraint")
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        message = explain(error, "check", parser, argv)
        if "namm check" in message:
            message += f"\n  usage: {USAGE}"
        raise CommandError(message) from error
    if (options.data is None) == (options.shape is None):
        raise CommandError("namm check needs --data FILE, or --shape [1,64,64] for noise.")
    if options.fields < 2:
        raise CommandError("namm check needs at least 2 fields, to tell whether they mix.")
    check_classes(options)
    with constructing(), trusting({*options.trust, *modules_of(options.constraint)}):
        return options, parser.instantiate(options).constraint


def parts(argv: Sequence[str]) -> list[str]:
    r"""Returns the options with the constraint and the data of a problem in place of its name."""
    if not argv or not is_problem(argv[0]):
        if argv and argv[0].endswith((".yaml", ".yml")):
            read_config(Path(argv[0]))  # which refuses a file that is missing
        return list(argv)
    problem, stage = stage_of(argv[0])
    data = check_keys("data", problem.config(stage).get("data", {}), "data")
    constraint = check_keys("data.init_args", data.get("init_args", {}), "data").get("constraint")
    if constraint is None:
        raise CommandError(f"The data of {argv[0]} have no constraint: give a constraint first.")
    given = any(word.split("=")[0] in ("--data", "--shape") for word in argv)
    source = [] if given else ["--data", f"{problem.path}::{stage}"]
    return [json.dumps(constraint), *argv[1:], *source]


def simulate(config: str) -> str:
    r"""Returns the file of the data module that a configuration describes, made if missing."""
    parser = ArgumentParser(prog="namm check", exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_argument("-c", "--config", action="config")
    argv = ["-c", config]
    try:
        options = parser.parse_args(expand(argv, ("data",)))
    except ArgumentError as error:
        raise CommandError(explain(error, "check", parser, argv)) from error
    check_classes(options)
    with constructing(), trusting(modules_of(options.data)):
        data = parser.instantiate(options).data
    if not isinstance(data, FieldData):
        raise InputError(f"{type(data).__name__} of {config} keeps no file: give another --data.")
    with show_progress():
        data.prepare_data()
    return data.file


def read(path: str, split: str, n: int, constraint: Constraint) -> tuple[Tensor, float]:
    r"""Returns the first fields of a split, with shape `(B, C, *S)`, and the floor of the file."""
    check_fits(path, constraint)
    x = read_fields(path, split, max(n, 2))
    if len(x) < 2:
        raise InputError(f"'{path}' has a single field in split '{split}': 2 are needed.")
    return x[:n], float(read_attributes(path).get("data_floor", 0.0))


def findings_text(findings: Sequence[Finding]) -> str:
    r"""Returns the findings as aligned lines, each failure with its remedy below it."""
    rows = [
        ("", "check", "found", "wanted"),
        *((f.verdict, f.name, f.figure, f.wanted) for f in findings),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = []
    for row, advice in zip(rows, ["", *(f.advice for f in findings)], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
        if advice:
            lines.append(f"{' ' * widths[0]}  -> {advice}")
    return "\n".join(lines)
