r"""Training: stages, averages, counted operations, checkpoints and their provenance."""
