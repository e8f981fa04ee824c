r"""The classes that have short names: classes of this project, and constraints of plug-ins."""

__all__ = ["load_plugins"]

import os
import sys
from functools import cache
from importlib.metadata import entry_points

from jsonargparse._typehints import get_all_subclass_paths

import constraints
import datamodules
import inverse
import mdm

from .. import mirror, module, nets
from ..evaluation import plots
from ..training import counting
from ..training.trust import GROUP, installed

# a class has a short name, and is suggested in messages, once its module is imported
MODULES = (constraints, datamodules, inverse, mdm, mirror, module, nets, plots, counting)


def load_plugins() -> None:
    r"""Imports the constraints that installed packages offer, so that they have short names.

    A plug-in that cannot be used is left out with a message on the standard error. A command that
    does not need it goes on. A command that needs it finds no such class.
    """
    ours = {module.__name__.split(".")[0] for module in MODULES}
    paths = [path.split(".") for path in get_all_subclass_paths(constraints.Constraint)]
    owners = {path[-1]: "namm itself" for path in paths if path[0] in ours}
    points = installed(entry_points(group=GROUP))
    offers = [(point.dist.name if point.dist else "", point) for point in points]
    for owner, point in sorted(offers, key=lambda offer: (offer[0], offer[1].name)):
        try:
            if point.attr in owners:  # not imported: from then on neither had a short name
                other = owners[point.attr]
                raise ValueError(f"{other} has a constraint of the name {point.attr} already")
            plugin = point.load()
            if not (isinstance(plugin, type) and issubclass(plugin, constraints.Constraint)):
                raise TypeError(f"{point.value} is not a Constraint")
            owners[point.attr] = owner
        except BaseException as error:  # any that the import of a stranger's module raises
            if isinstance(error, KeyboardInterrupt) or os.environ.get("NAMM_TRACEBACK") == "1":
                raise
            reason = str(error) if isinstance(error, Exception) else repr(error)
            complain(
                f"the plug-in '{point.name}' ({point.value}) of the package '{owner}' is left "
                f"out: {reason}. Repair it, or uninstall the package."
            )


@cache
def complain(message: str) -> None:
    r"""Prints a message to the standard error, once in a process."""
    print(f"namm: {message}", file=sys.stderr)
