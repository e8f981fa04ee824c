r"""The conformance kit measures the properties of a constraint that every method relies on.

A constraint is tried on fields that satisfy it, on the same fields with noise, and on constant
fields. Everything is measured against the fields themselves: their scale s is the std of all their
numbers, and a distance is large or small beside the distance of a field with noise of std s, or of
the first larger noise that the constraint notices. Two rules follow from it.

- Fields satisfy a constraint if their distance is at most 1e-5 of the distance of noise, about 100
  roundings in float32, or at most twice the floor that their file states.
- A gradient is right if derivatives along random directions agree with central differences in
  float64 to 1e-3, at the best of several steps: a step is too long where it crosses a kink, and
  too short where rounding shows.
"""

__all__ = ["Finding", "check"]

from typing import Literal, NamedTuple

from torch import Tensor

from ..base import Constraint
from ..batch import Given
from ..errors import InputError, check_fields
from .kit import CHECKS, Check
from .probe import Probe


class Finding(NamedTuple):
    r"""The result of one check of the kit: the name of the check, the verdict, the figures that
    were measured and wanted, and the advice about a failure."""

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
    given: Given | None = None,
) -> list[Finding]:
    r"""Runs a constraint through all checks of the kit, on copies of it.

    After the failure of a decisive check the checks behind it are left out, since they would
    repeat the fault in other words.

    Arguments:
        constraint: The constraint.
        x: The fields, with shape `(B, C, *S)` and B at least 2, where a few are enough.
        floor: The largest distance of fields that satisfy the constraint, if it is known.
        satisfied: Whether the fields satisfy the constraint.
        seed: The seed of all noise.
        given: The data of each sample that the constraint needs, with shape `(B, *)` each.

    Returns:
        The findings. The constraint is sound if the verdict of none is `fail`.

    Raises:
        InputError: If the constraint cannot judge fields of this shape.
    """
    check_fields(constraint, x, "2 float fields or more", len(x) > 1 and x.is_floating_point())
    try:
        constraint.check_shape(x)
    except InputError:
        raise
    except Exception as error:  # of any kind: the code is not ours
        advice = f"It raises '{error}': raise an InputError that says which shape is wanted."
        return [Finding("check_shape", "fail", type(error).__name__, "no error", advice)]
    probe = Probe(constraint, x.detach().float().clone(), floor, satisfied, seed, given)
    findings: list[Finding] = []
    for entry in CHECKS:
        findings.append(attempt(entry, probe))
        if entry.decisive and findings[-1].verdict == "fail":
            break
    return findings


def attempt(entry: Check, probe: Probe) -> Finding:
    r"""Runs one check, and turns an error of the constraint into a failure."""
    advice = entry.advice
    try:
        ok, figure, wanted = entry.function(probe)
    except Exception as error:  # of any kind: the code is not ours
        ok, figure, wanted = False, type(error).__name__, "no error"
        advice = f"It raises '{' '.join(str(error).split())}'. {advice}"
    if ok is False:
        return Finding(entry.name, "fail", figure, wanted, advice)
    return Finding(entry.name, "note" if ok is None else "pass", figure, wanted, "")
