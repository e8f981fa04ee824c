r"""Numbers, tables and starts that all benchmarks share."""
