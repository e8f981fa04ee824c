r"""The checks of a command before torch and Lightning are imported, which takes seconds.

They look at the files of the command, at their YAML, at the stages of a problem, and at the names
of the sections."""

__all__ = ["SECTIONS", "judge"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .configs import configs, is_problem, problem_at, stage_of
from .errors import CommandError
from .parser import parse_report, parse_run, parse_ship
from .reader import KeyLoader, parse_config, read_config, refuse

# the options of the verbs of Lightning, by the part before the first dot
COMMON = (
    *("checkpoint", "ckpt_path", "config", "data", "ema", "flops", "force", "help", "model"),
    *("print_config", "seed_everything", "trainer", "trust"),
)
SECTIONS = {
    "fit": (*COMMON, "weights_only"),
    "validate": (*COMMON, "verbose", "weights_only"),
    "test": (*COMMON, "replace", "verbose", "weights_only"),
    "predict": (*COMMON, "replace", "weights_only"),
}


def judge(verb: str, argv: Sequence[str]) -> None:
    r"""Raises the mistakes of a command that show without its classes.

    Arguments:
        verb: The verb.
        argv: Its options.

    Raises:
        CommandError: If a file cannot be read or is no YAML, or if a section has no meaning.
    """
    if {"-h", "--help"} & {*argv}:
        return
    if verb == "run":
        options = parse_run(argv)
        problem_at(options.problem, options.scale)
    elif verb == "report":
        parse_report(argv)
    elif verb == "ship":
        parse_ship(argv)
    elif verb == "check" and argv and argv[0].endswith((".yaml", ".yml")):
        stage_of(argv[0]) if is_problem(argv[0]) else read_nested(Path(argv[0]))
    for flag, word in configs(argv) if verb in SECTIONS else ():
        if flag:
            content = content_of(word)
            for key in content:
                section(verb, key, key)
        elif word.startswith("--"):
            name = word[2:].partition("=")[0]
            section(verb, name.split(".")[0].rstrip("+"), "", word)


def section(verb: str, name: str, at: str, word: str = "") -> None:
    r"""Refuses a section, or an option of a section, that a verb does not have."""
    if name not in SECTIONS[verb]:
        shown = word.removeprefix("--").partition("=")[0] or name
        refuse("", f"namm {verb} has no option '{shown}'", at, name, SECTIONS[verb])


def content_of(word: str) -> dict[str, Any]:
    r"""Returns the content of a configuration, given by its file, as FILE::STAGE, or itself."""
    if "\n" in word or word.lstrip().startswith("{"):
        return parse_config(word, "the configuration", KeyLoader)
    if not is_problem(word):
        return read_nested(Path(word))
    problem, stage = stage_of(word)
    if "::" not in word:
        raise CommandError(f"{word} holds stages: give one of them, as {word}::{stage}.")
    content: dict[str, Any] = problem.config(stage)
    return content


def read_nested(
    file: Path, key: str = "", at: str = "", above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    r"""Returns the content of a file, after a look at all files that it names."""
    if file in above:
        refuse(key, f"{file} names itself", at)
    content = read_config(file, KeyLoader, key, at)
    waiting: list[tuple[str, Any]] = [*content.items()]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, item) for item in value]
        elif isinstance(value, str) and value.endswith((".yaml", ".yml")):
            inner = file.parent / value
            if inner.is_file():  # another text may end so
                read_nested(inner, str(name), name, (*above, file))
    return content
