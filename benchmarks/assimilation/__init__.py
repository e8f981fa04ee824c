r"""Solvers against the posterior of Burgers fields: `python -m benchmarks.assimilation`."""
