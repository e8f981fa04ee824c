r"""Silences the messages that Lightning repeats at every start."""

__all__ = ["quiet"]

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core import rank_zero

# messages at every start that no user can act upon
CHATTER = (
    "GPU available",
    "TPU available",
    "\N{ELECTRIC LIGHT BULB}",
    "Seed set",
    "Restoring states",
    "Found current_model_state",
    "`Trainer(val_check_interval",
    "\nDetected KeyboardInterrupt",  # `KeepLast` has said so
)
WARNINGS = (
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # a matter between lightning and torch
    "The '.*' does not have many workers",  # the data are in memory
    "Found .* module\\(s\\) in eval mode",  # maps that are not trained
)


@contextmanager
def quiet() -> Iterator[None]:
    r"""Silences these messages while the context lasts."""
    loggers = [rank_zero.log, logging.getLogger("lightning.fabric.utilities.seed")]
    with warnings.catch_warnings():
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.addFilter(worth_showing)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(worth_showing)


def worth_showing(record: logging.LogRecord) -> bool:
    r"""Returns whether a message of Lightning is shown."""
    return not str(record.msg).startswith(CHATTER)
