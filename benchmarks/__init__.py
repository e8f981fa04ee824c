r"""Programs that measure the packages: `python -m benchmarks.NAME` from the root of a clone."""
