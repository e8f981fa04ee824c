r"""Trust sampling on points of a spiral: `python -m benchmarks.spiral`."""
