r"""The single checks of the conformance kit. Each check returns whether a constraint passes, or
`None` for a note, and the figures that were found and wanted."""

__all__ = ["CHECKS", "Check"]

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Constraint
from .probe import LEVELS, ROUNDING, Probe, gradient

AGREEMENT = 1e-3  # between a derivative and its central difference, relative
STEPS = (1e-2, 1e-4, 1e-6)  # of central differences, in units of s
DIRECTIONS = 2  # for each of two fields

Verdict = tuple[bool | None, str, str]
Function = Callable[[Probe], Verdict]


class Check(NamedTuple):
    r"""A check, and the advice for a constraint that fails it. After the failure of a decisive
    check the other checks would only repeat the fault in other words."""

    name: str
    function: Function
    advice: str
    decisive: bool


CHECKS: list[Check] = []


def entry(name: str, decisive: bool = False) -> Callable[[Function], Function]:
    r"""Returns the decorator that appends a check to `CHECKS`. The docstring of the function is
    the advice."""

    def append(function: Function) -> Function:
        CHECKS.append(Check(name, function, " ".join(str(function.__doc__).split()), decisive))
        return function

    return append


@entry("shape", decisive=True)
def shape(probe: Probe) -> Verdict:
    r"""Return one distance a field: reduce all axes but the first, for example with
    .flatten(1).mean(dim=1)."""
    distance: Any = probe.copy()(probe.x, probe.given)
    found = tuple(distance.shape) if isinstance(distance, Tensor) else type(distance).__name__
    return found == (len(probe.x),), str(found), f"({len(probe.x)},)"


@entry("precision", decisive=True)
def precision(probe: Probe) -> Verdict:
    r"""Follow the dtype of the fields: make tensors with x.new_tensor or .to(x), and name no
    dtype."""
    wanted = [torch.float32, torch.float64]
    found = [probe.copy(dtype)(probe.noisy.to(dtype), probe.given).dtype for dtype in wanted]
    names = [", ".join(map(str, dtypes)).replace("torch.", "") for dtypes in (found, wanted)]
    return found == wanted, names[0], names[1]


@entry("differentiable", decisive=True)
def differentiable(probe: Probe) -> Verdict:
    r"""Compute the distance from x by operations of torch alone, without detach, no_grad, item
    or numpy, and not in place."""
    distance = probe.copy()(probe.noisy.clone().requires_grad_(), probe.given)
    return distance.requires_grad, "one" if distance.requires_grad else "none", "a gradient"


@entry("finite", decisive=True)
def finite(probe: Probe) -> Verdict:
    r"""Guard divisions, roots and logarithms, and powers against overflow: sampling starts
    from noise."""
    values = distances(probe)
    bad = int((~torch.isfinite(values)).sum())
    return bad == 0, f"{bad} of {len(values)} are not", "finite on data and noise"


@entry("deterministic", decisive=True)
def deterministic(probe: Probe) -> Verdict:
    r"""Draw nothing at random, use no dropout, and keep nothing from one call to the next; a
    buffer that is drawn once is fine."""
    constraint = probe.copy()
    values = [constraint(probe.noisy, probe.given).detach() for _ in range(2)]
    same = torch.equal(*values)
    return same, "the same" if same else "another value", "the same value twice"


@entry("alone and in a batch", decisive=True)
def independent(probe: Probe) -> Verdict:
    r"""The distance of a field depends on the others in its batch: reduce axes 1 and up only,
    and use no batch norm."""
    constraint, n = probe.copy(torch.float64), len(probe.x)
    fields = torch.cat([probe.x.double(), probe.noisy])
    with torch.no_grad():
        together = constraint(fields, probe.rows([*range(n)] * 2))
        alone = [constraint(field[None], probe.rows([i % n])) for i, field in enumerate(fields)]
    error = float(
        ((together - torch.cat(alone)).abs() / together.abs().max().clamp(min=1e-300)).max()
    )
    return error <= 1e-9, f"differs by {error:.1g}", "the same alone and in a batch"


@entry("separate gradients")
def separate(probe: Probe) -> Verdict:
    r"""The gradient of one distance reaches other fields: reduce axes 1 and up only."""
    x = probe.noisy.double().requires_grad_()
    (grad,) = torch.autograd.grad(probe.copy(torch.float64)(x, probe.given)[0], x)
    leak = float(grad[1:].abs().max())
    return leak == 0, f"{leak:.1g} at most", "no gradient on other fields"


@entry("unchanged")
def unchanged(probe: Probe) -> Verdict:
    r"""A constraint is not trained along: call .requires_grad_(False) on its networks, keep
    them in eval mode by overriding train, and write to no buffer."""
    constraint = probe.copy().train()
    before = deepcopy(constraint)
    values = [constraint(probe.noisy, probe.given).detach()]
    values.append(constraint.eval()(probe.noisy, probe.given).detach())

    kept = all(map(torch.equal, tensors(constraint), tensors(before)))
    trained = sum(weight.requires_grad for weight in constraint.parameters())
    found = [
        "" if torch.equal(*values) else "train() and eval() differ",
        "" if kept else "its buffers or weights change",
        f"{trained} weights would be trained" if trained else "",
    ]
    text = ", ".join(filter(None, found)) or "nothing changes"
    return not any(found), text, "nothing changes in use"


@entry("not negative")
def not_negative(probe: Probe) -> Verdict:
    r"""A distance is not negative: take the absolute value, or the positive part by .relu()
    where it is an inequality."""
    least = float(distances(probe).min())
    return least >= 0, f"{least:.2g} at least", "0 or more"


@entry("zero on data")
def zero(probe: Probe) -> Verdict:
    r"""This field does not satisfy it: compare the parameters, the axes and the units of the
    constraint with the data."""
    if not probe.satisfied:
        return None, "not checked without data", "0 on data"
    values = probe.copy()(probe.x, probe.given).detach()  # in float32, as floors are
    found = f"{float(values.max()):.2g} in field {int(values.argmax())}"
    return bool(values.max() <= probe.limit), found, f"{probe.limit:.2g} at most"


@entry("growth with noise")
def growth(probe: Probe) -> Verdict:
    r"""Noise does not raise the distance: it does not tell what satisfies the constraint from
    what does not, or the constraint is too wide to matter for these data."""
    with torch.no_grad():
        start = float(probe.copy(torch.float64)(probe.x.double(), probe.given).mean())
    means, levels = (torch.tensor(v, dtype=torch.float64) for v in (probe.distances, LEVELS))
    known = torch.isfinite(means)
    most, wanted = float(means[known].max()), f"more with noise up to {LEVELS[-1]:g} s"
    if not most > 1.5 * start:
        found = f"{start:.2g} without, {most:.2g} at most"
        return False if probe.satisfied else None, found, wanted
    found, seen = "rises", known & (means > 10 * max(start, probe.limit))
    if seen.sum() > 1:
        logs = torch.stack([levels.log(), torch.ones_like(levels)], dim=1)[seen]
        slope = torch.linalg.lstsq(logs, means[seen].log()[:, None]).solution[0]
        found = f"as noise^{float(slope):.2f} from {float(levels[seen][0]):g} s"
    # a distance that falls again is in the nature of an obstacle
    lost = levels[1:][~(known[1:] & (means[1:] >= 0.95 * means[:-1]))]
    if len(lost):
        return None, f"{found}, no more from {float(lost[0]):g} s", wanted
    return True, found, wanted


@entry("gradient")
def derivative(probe: Probe) -> Verdict:
    r"""The gradient is not the gradient of the distance: look for a detach, for values that are
    rounded, counted or chosen on the way, and for a backward of its own."""
    constraint = probe.copy(torch.float64)
    rows = torch.arange(2).repeat_interleave(DIRECTIONS)
    x, given = probe.disturbed(1.0)[rows], probe.rows(rows)
    v = probe.noise("direction", len(x))
    distance, grad = gradient(constraint, x, given)
    if not grad.any() and distance.all():
        return False, "0 everywhere", "not 0 where the distance is not"
    along = (grad * v).flatten(1).sum(dim=1)
    # the derivative along most directions is of this size; along one direction it may vanish
    size = probe.scale * torch.linalg.vector_norm(grad.flatten(1), dim=1)
    errors = []
    with torch.no_grad():
        for h in STEPS:
            up, down = constraint(x + h * v, given), constraint(x - h * v, given)
            difference = (up - down) / (2 * h)
            largest = torch.maximum(size, difference.abs())
            errors.append((along - difference).abs() / largest.where(largest > 0, 1))
    error = float(torch.stack(errors).amin(dim=0).max())
    return error <= AGREEMENT, f"off by {error:.1g}", f"{AGREEMENT:g} at most"


@entry("finite gradient")
def finite_gradient(probe: Probe) -> Verdict:
    r"""Roots, norms made of them, divisions and logarithms have no gradient at 0: use
    torch.linalg.vector_norm, or add a small number inside."""
    constraint, mean = probe.copy(), probe.x.mean()
    constant = torch.stack([torch.zeros_like(probe.x[0]), mean.expand_as(probe.x[0])])
    places = {
        "data": (probe.x, probe.given),
        "noise": (probe.noisy, probe.given),
        "constant fields": (constant, probe.rows([0, 0])),
    }
    bad = []
    for place, fields in places.items():
        distance, grad = gradient(constraint, *fields)
        broken = ~torch.isfinite(grad).flatten(1).all(dim=1)
        # a constant field may be one that has no distance
        if (broken & (torch.isfinite(distance) | (place != "constant fields"))).any():
            bad.append(place)
    found = f"NaN or inf on {', '.join(bad)}" if bad else "finite"
    return not bad, found, f"finite on {', '.join(places)}"


@entry("residual")
def residual(probe: Probe) -> Verdict:
    r"""Return residuals of shape (B, *), zero if and only if the distance is: leave forward
    out, or make it of the residual."""
    constraint = probe.copy(torch.float64)
    fields = torch.cat([probe.x.double(), probe.disturbed(1.0)])
    n, wanted = len(probe.x), "zero where the distance is"
    with torch.no_grad():
        given = probe.rows([*range(n)] * 2)
        found = constraint.residual(fields, given)
        distance = constraint(fields, given).abs()
    if found.ndim < 1 or len(found) != len(fields):
        return False, str(tuple(found.shape)), f"({len(fields)}, *)"
    size = found.abs().flatten(1).mean(dim=1)
    none = [v <= max(ROUNDING * float(v[n:].max()), 2 * probe.floor) for v in (size, distance)]
    differ = int((none[0] != none[1]).sum())
    return differ == 0, f"{differ} of {len(fields)} disagree", wanted


@entry("bfloat16")
def bfloat16(probe: Probe) -> Verdict:
    r"""Follow the dtype of the fields, and compute in float32 what bfloat16 has no digits or
    no operation for, within torch.autocast(..., enabled=False)."""
    constraint, x = probe.copy(), probe.noisy
    exact = constraint(x, probe.given).detach()
    with torch.no_grad(), torch.autocast(probe.x.device.type, torch.bfloat16):
        # a network gives fields in either precision
        fields = (x, x.bfloat16())
        values = torch.stack([constraint(x, probe.given).float() for x in fields])
    error = float(((values - exact).abs() / exact.abs().max().clamp(min=1e-30)).max())
    ok = None if torch.isfinite(values).all() else False
    return ok, f"off by {error:.1g}", "finite under autocast"


@entry("cost of a field")
def runtime(probe: Probe) -> Verdict:
    r"""It must run forwards and backwards."""
    constraint, x = probe.copy(), probe.noisy
    image = x.new_zeros(len(x), 32, x[0, 0].numel(), 1)
    kernel = x.new_zeros(32, 32, 3, 3)

    def seconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times) / len(x)

    forward = seconds(lambda: constraint(x, probe.given))
    both = seconds(lambda: gradient(constraint, x, probe.given))
    layer = seconds(lambda: F.conv2d(image, kernel, padding=1))
    found = f"{1e3 * forward:.2g} ms, {1e3 * both:.2g} ms with gradient"
    return None, found, f"a 3x3 layer of 32 channels: {1e3 * layer:.2g} ms"


def distances(probe: Probe) -> Tensor:
    r"""Returns the distances of data and of noise."""
    constraint = probe.copy()
    return torch.cat([constraint(x, probe.given).detach() for x in (probe.x, probe.noisy)])


def tensors(module: Constraint) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
