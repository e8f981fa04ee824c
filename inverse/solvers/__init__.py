r"""Solvers: samples of a field given its measurement, one method a file."""
