r"""Sweeps over trainings: `python -m benchmarks.sweep.compute` and `.ablations`."""
