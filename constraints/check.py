r"""The conformance kit: what every method of this project relies on in a constraint, measured.

A constraint is tried on fields that satisfy it, on the same fields with noise, and on constant
fields. Everything is measured against the fields themselves: their scale s is the std of all their
numbers, and a distance is large or small beside that of a field with noise of std s, or of the
first larger one which the constraint notices. Two rules follow from it.

- Fields satisfy a constraint if their distance is at most 1e-5 of that of noise, which is about
  100 roundings in float32, or at most twice the floor that their file states.
- A gradient is right if derivatives along random directions agree with central differences in
  float64 to 1e-3, at the best of several steps: a step is too long where it crosses a kink, and
  too short where rounding shows.
"""

__all__ = ["Finding", "check"]

from typing import Literal, NamedTuple

from torch import Tensor

from .base import Constraint
from .conformance import FIRST, THEN
from .probe import Probe


class Finding(NamedTuple):
    r"""What one check of the kit has found: its name, its verdict, what was measured, what was
    wanted, and a sentence that says what to do, which is empty where nothing is."""

    name: str
    verdict: Literal["pass", "fail", "note"]
    figure: str
    wanted: str
    advice: str


def check(
    constraint: Constraint,
    x: Tensor,
    floor: float = 0.0,
    satisfied: bool = True,
    seed: int = 0,
) -> list[Finding]:
    r"""Runs a constraint through all checks of the kit, on copies of it.

    Where the first three fail, nothing else can be measured, and they come alone.

    Arguments:
        constraint: The constraint.
        x: The fields, with shape `(B, C, *S)` and B at least 2, where a few are enough.
        floor: The largest distance of fields that satisfy the constraint, if it is known.
        satisfied: Whether the fields satisfy the constraint.
        seed: The seed of all noise.

    Returns:
        The findings. The constraint is sound if the verdict of none is `fail`.

    Raises:
        InputError: If the constraint cannot judge fields of this shape.
    """
    if len(x) < 2:
        raise ValueError(f"check expects at least 2 fields, got shape {tuple(x.shape)}.")
    constraint.check_shape(x)
    findings: list[Finding] = []
    for checks in (FIRST, THEN):
        probe = Probe(constraint, x.detach().float(), floor, satisfied, seed)
        for name, function in checks.items():
            try:
                ok, figure, wanted, advice = function(probe)
            except Exception as error:  # of any kind: the code is not ours
                ok, figure, wanted = False, type(error).__name__, "no error"
                advice = f"It raises '{' '.join(str(error).split())}'."
            verdict: Literal["pass", "fail", "note"] = "pass" if ok else "fail"
            verdict = "note" if ok is None else verdict
            findings.append(Finding(name, verdict, figure, wanted, "" if ok else advice))
            if not ok and checks is FIRST:
                return findings
    return findings
