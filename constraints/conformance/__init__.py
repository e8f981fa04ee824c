r"""The conformance kit tells whether a constraint is sound, before anything is trained on it."""

__all__ = ["Finding", "check"]

from .check import Finding, check
