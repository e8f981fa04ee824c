r"""Evaluation: metrics, the rows of results, costs, figures, and the weights that are shipped."""
