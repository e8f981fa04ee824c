r"""Solvers against posteriors that are known exactly: `python -m benchmarks.posteriors`."""
