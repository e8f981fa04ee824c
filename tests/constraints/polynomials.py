"""Polynomials in the plane, and their values by hand."""

# the four kinds of the published example, each with a function of a point
TERMS = {
    "line": ([[2, 1, 0], [1, 0, 1], [1, 0, 0]], False, lambda x, y: 2 * x + y + 1),
    "cubic": ([[1, 0, 1], [-1, 3, 0], [1, 1, 0]], False, lambda x, y: y - x**3 + x),
    "curve": ([[1, 2, 0], [1, 0, 3], [-3, 0, 0]], False, lambda x, y: x**2 + y**3 - 3),
    "disc": (
        [[1, 2, 0], [-1, 1, 0], [1, 0, 2], [-1, 0, 0]],
        True,
        lambda x, y: max((x - 0.5) ** 2 + y**2 - 1.25, 0),
    ),
}
