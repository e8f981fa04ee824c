r"""The speed of simulations and the distances of their fields: `python -m benchmarks.data`."""
