r"""The command line, the top floor of the project: nothing imports it."""
