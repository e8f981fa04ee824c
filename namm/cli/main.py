r"""The command `namm`: finds the verb, and loads only what that verb needs."""

__all__ = ["answered", "main"]

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from .early import judge
from .errors import CommandError, Interrupted, nearest

HELP = """\
usage: namm VERB [options]

Neural approximate mirror maps: diffusion models under constraints.

  fit        train a model
  validate   score a model on the validation data
  test       score a model on the test data
  predict    draw samples from a model
  check      check a constraint and its data: namm check my_module.MyConstraint --data my.h5
  run        run all stages of a problem in order: namm run configs/burgers.yaml --scale demo
  report     write the table and the figure of finished stages: namm report runs/burgers
  ship       write the weights of a run for others to load: namm ship runs/burgers FOLDER

`namm VERB --help` lists the options of a verb. `namm --version` prints the version."""
VERBS = ("fit", "validate", "test", "predict", "check", "run", "report", "ship")


def main(argv: Sequence[str] | None = None) -> int | None:
    r"""Runs a command and says in a sentence why it could not.

    Arguments:
        argv: The verb and its options. If missing, the options of the process.

    Returns:
        The exit code: `None` on success, 1 if an input does not fit, a file cannot be used or a
        constraint fails its check, 2 if the command or a configuration is wrong, 130 after Ctrl-C
        and 143 after SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP)
        return None
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"namm {version('namm')}")
        return None
    if argv[0] not in VERBS:
        verbs = ", ".join(VERBS)
        message = f"there is no verb '{argv[0]}', only {verbs}.{nearest(argv[0], VERBS)}"
        return fail(f"error: {message}", 2)
    try:
        judge(argv[0], argv[1:])
    except CommandError as error:
        return fail(f"error: {error}", 2)

    # A thread that waits spins for a moment only: it must not take a core from those that work.
    # Torch's threads read this when it is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # A user's own constraint lies in the working directory, which must not hide our packages.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())

    return answered(lambda: run(argv))


def answered(action: Callable[[], int | None]) -> int | None:
    r"""Runs an action and says in a sentence why it could not.

    Arguments:
        action: The action. It may return an exit code.

    Returns:
        The exit code, as of `main`.
    """
    try:
        from constraints import InputError

        return action()
    except KeyboardInterrupt:
        return fail("stopped.", 130)
    except Interrupted as stop:
        return fail(stop, stop.code)
    except SystemExit as stop:
        imports = [f for f in traceback.extract_tb(stop.__traceback__) if f.name == "<module>"]
        if not imports:
            raise
        return fail(f"error: {imports[-1].filename} ends the process at its import: repair it.", 1)
    except CommandError as error:
        return fail(f"error: {error}", 2)
    except InputError as error:
        return fail(f"error: {error}", 1)
    except OSError as error:
        named = error.filename is not None and error.strerror is not None
        return fail(
            f"error: {error.filename}: {error.strerror}." if named else f"error: {error}", 1
        )


def run(argv: Sequence[str]) -> int | None:
    r"""Runs a verb that exists, and returns its exit code."""
    if argv[0] == "check":
        from .check import main as check

        return check(argv[1:]) or None
    if argv[0] == "run":
        from .runner import main as stages

        stages(argv[1:])
    elif argv[0] == "ship":
        from .ship import main as ship

        ship(argv[1:])
    elif argv[0] == "report":
        from .report import main as gather

        gather(argv[1:])
    else:
        from .lightning import main as lightning

        lightning(argv)
    return None


def fail(message: object, code: int) -> int:
    r"""Prints a message, or raises the error under way if `NAMM_TRACEBACK=1` asks for it."""
    if os.environ.get("NAMM_TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        raise
    print(f"namm: {message}", file=sys.stderr)
    return code
