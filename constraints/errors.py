r"""The one exception that means "what you gave does not fit", as opposed to a bug."""

__all__ = ["InputError"]


class InputError(ValueError):
    r"""Says in a sentence what came, what was wanted and what to do. The command line prints it
    without a traceback."""
