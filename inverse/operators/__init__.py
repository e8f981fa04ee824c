r"""Operators: how a field is measured, one operator a file."""
