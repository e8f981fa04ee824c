r"""One-line mutations of the packages, and the tests that catch them."""
