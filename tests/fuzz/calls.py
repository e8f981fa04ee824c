"""Wrong calls from Python: each must be refused by an `InputError`."""

import inspect
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import torch
from torch import nn

import constraints as c
import datamodules as d
import inverse as i
import mdm as m
import namm as n
from constraints.ranges import Range, _hints
from namm.training.checkpoint import load_part
from tests.problems import tiny_denoiser, tiny_mirror

Call = Callable[[], Any]
X = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
NET = {"channels": 1, "padding": ["circular", "replicate"]}
AXES = {"axes": ["x", "t"], "boundary": {"x": "periodic", "t": "none"}, "channels": ["u"]}


def outside(hint: Any) -> Iterator[Any]:
    """Values outside of the range of a type."""
    if get_origin(hint) is Annotated:
        kind, interval = get_args(hint)[:2]
        if isinstance(interval, Range):
            lower, upper = (float(end) for end in interval[1:-1].split(","))
            yield from (math.nan, "much", None)
            yield from [lower - 1] if math.isfinite(lower) else []
            yield from [upper + 1] if math.isfinite(upper) else []
            yield from [1.5] if kind is int else []


def of_ranges(rng: random.Random, count: int) -> Iterator[tuple[str, Call]]:
    """Numbers of constructors outside of their ranges."""
    found: list[tuple[str, Call]] = []
    for package in (c, d, i, m, n):
        for name in package.__all__:
            cls = getattr(package, name)
            if not (inspect.isclass(cls) and issubclass(cls, c.Ranged)) or inspect.isabstract(cls):
                continue
            taken = inspect.signature(cls).parameters
            for argument, hint in _hints(cls).items():
                if argument not in taken and "kwargs" not in taken:
                    continue
                for value in outside(hint):
                    label = f"{name}({argument}={value!r})"
                    found.append((label, lambda f=cls, k=argument, v=value: f(**{k: v})))
    return iter(rng.sample(found, count))


def solve(solver: i.Solver, m: Any = X, operator: Any = None, seeds: Any = (0, 1)) -> Any:
    operator = operator or i.Select(-1, [0, 1], 8)
    return solver(tiny_denoiser(), operator, m, (1, 8, 8), seeds)


DIM2 = m.DDIM(2)
SEEN = X[..., :2]


def of_fields() -> Iterator[tuple[str, Call]]:
    """Fields, measurements and seeds that do not fit."""
    judged: dict[str, tuple[c.Constraint, torch.Tensor]] = {
        "Burgers, three axes": (c.Burgers(), X[..., None]),
        "Burgers, two channels": (c.Burgers(), X.repeat(1, 2, 1, 1)),
        "Burgers, one frame": (c.Burgers(), X[..., :1]),
        "Divergence, one channel": (c.Divergence(), X),
        "NavierStokes, one channel": (c.NavierStokes(), X),
        "Count, two channels": (c.Count(3, c.Counter(4, 1)), X.repeat(1, 2, 1, 1)),
        "Linear, other length": (c.Linear([[1.0, 1.0]], [0.0]), X),
        "Box, other channels": (c.Box([0.0, 0.0], [1.0, 1.0]), X),
        "Simplex, no such axis": (c.Simplex(1.0, 7), X),
        "Ball, other length": (c.Ball(1.0, [0.0] * 3), X),
        "Periodic, tiles that do not fit": (c.Periodic([3, 3]), X),
        "Rotation, no squares": (c.Rotation(4), X[..., :4]),
        "Spiral, images": (c.Spiral(), X),
        "Waypoints, no such frame": (c.Waypoints([70], [[0.0, 0.0]]), X.repeat(1, 2, 1, 1)),
        "Obstacle, images": (c.Obstacle([0.0, 0.0], 1.0), X),
        "MinimumHeight, no such channel": (c.MinimumHeight(0.1, 3), X),
    }
    for label, (constraint, x) in judged.items():
        yield label, lambda k=constraint, v=x: (k.check_shape(v), k(v))
    yield "check, one field", lambda: c.check(c.Burgers(), X[:1])
    yield "check, no batch", lambda: c.check(c.Burgers(), X[0, 0])
    yield "check, integers", lambda: c.check(c.Burgers(), X.long())
    yield "project, no closed form", lambda: c.Burgers().project(X)
    yield "Sum, nothing", lambda: c.Sum([])
    yield "Sum, weights", lambda: c.Sum([c.Burgers()], [1.0, 2.0])

    nets = {
        "ICNN": n.ICNN(**NET, width=4, layers=1),
        "ResNet": n.ResNet(**NET, width=4, blocks=1),
        "PatchNet": n.PatchNet(**NET, width=8, blocks=1),
    }
    for label, net in nets.items():
        yield f"{label}, two channels", lambda f=net: f(X.repeat(1, 2, 1, 1))
        yield f"{label}, no batch", lambda f=net: f(X[0, 0])
        yield f"{label}, three axes", lambda f=net: f(X[..., None])
        yield f"{label}, integers", lambda f=net: f(X.long())
    yield "PatchNet, sides", lambda: nets["PatchNet"](X[..., :7])
    for net in (n.ICNN, n.ResNet, n.PatchNet):
        yield f"{net.__name__}, no channels", lambda f=net: f(padding=NET["padding"])
        yield f"{net.__name__}, no padding", lambda f=net: f(channels=1)
        yield f"{net.__name__}, padding", lambda f=net: f(channels=1, padding=["round", "flat"])
    yield "mirror, two channels", lambda: tiny_mirror()(X.repeat(1, 2, 1, 1))
    yield "mirror, inverse, sides", lambda: tiny_mirror().inverse(X[..., :7])

    denoiser = tiny_denoiser()
    yield "denoiser, two channels", lambda: denoiser(X.repeat(1, 2, 1, 1), torch.tensor(0.5))
    yield "denoiser, times", lambda: denoiser(X, torch.rand(3))
    yield "denoiser, sides", lambda: tiny_denoiser(patch=4)(X[..., :7], torch.tensor(0.5))
    yield (
        "GaussianDenoiser, other size",
        lambda: m.GaussianDenoiser(torch.eye(3))(X, X[0, 0, 0, :2]),
    )
    yield "GaussianDenoiser, no square", lambda: m.GaussianDenoiser(torch.ones(3, 4))
    yield "GaussianDenoiser, negative", lambda: m.GaussianDenoiser(-torch.eye(3))
    yield "Transition, end above start", lambda: m.DDIM(4, start=0.2, end=0.5)
    yield "ChainSampler, start", lambda: m.ChainSampler(m.DDIM(4, start=0.5))
    yield "sampler, two channels", lambda: m.DPMSolver(2)(denoiser, (2, 8, 8), [0])
    yield "sampler, no shape", lambda: m.DPMSolver(2)(denoiser, (), [0])
    yield "sampler, text as seed", lambda: m.DPMSolver(2)(denoiser, (1, 8, 8), [None])
    yield "Ancestral, other schedule", lambda: solve(i.DPS(transition=m.Ancestral()))

    operators = {
        "Select": i.Select(-1, [0], 4),
        "Downsample": i.Downsample(3),
        "Blur": i.Blur(1.0, [4, 4]),
        "Fourier": i.Fourier([4, 4]),
        "Mask": i.Mask([4, 4], [0, 0, 2, 2]),
        "RandomProjection": i.RandomProjection(2, [1, 4, 4]),
    }
    for label, operator in operators.items():
        yield f"{label}, other sides", lambda f=operator: f.measure(X, [0, 1])
        yield f"{label}, integers", lambda f=operator: f.measure(X.long(), [0, 1])
        yield f"{label}, one seed", lambda f=operator: f.measure(X, [0])
        yield f"{label}, no batch", lambda f=operator: f.measure(X[0, 0], range(8))
    yield (
        "Select, std of another shape",
        lambda: i.Select(-1, [0], 8, torch.ones(5)).measure(X, [0, 1]),
    )
    yield "Select, negative std", lambda: i.Select(-1, [0], 8, torch.tensor([-1.0]))

    bad = {
        "NaN": SEEN / 0 - SEEN / 0,
        "infinite": SEEN / 0,
        "another shape": X,
        "one of two": SEEN[:1],
        "no batch": SEEN[0, 0],
        "text": "measured",
        "None": None,
    }
    solvers = [i.DPS(transition=DIM2), i.DSG(transition=DIM2), i.PiGDM(transition=DIM2)]
    solvers += [i.CPiGDM(transition=DIM2), i.LGDMC(transition=DIM2), i.Trust(transition=DIM2)]
    for solver in solvers:
        for label, value in bad.items():
            name = f"{type(solver).__name__}, measurement: {label}"
            yield name, lambda f=solver, v=value: solve(f, v)
        name = type(solver).__name__
        yield f"{name}, seeds", lambda f=solver: solve(f, SEEN, seeds=(0, 1, 2))


def of_files(folder: Path) -> Iterator[tuple[str, Call]]:
    """Files, and attributes of files, that do not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {name: X.numpy() for name in ("train", "val", "test")}
    file = folder / "data.h5"
    for label, value in {
        "None": None,
        "path": folder,
        "function": print,
        "complex": 1j,
        "set": {1, 2},
    }.items():
        attributes = {**AXES, "note": value}
        yield f"attribute: {label}", lambda a=attributes: d.write_fields(file, splits, a, {})
    for label, x in {
        "NaN": X.numpy() * np.nan,
        "no batch": X.numpy()[0, 0, 0],
        "text": np.array(["a", "b"]),
        "empty": X.numpy()[:0],
        "complex": X.numpy() * 1j,
    }.items():
        fields = {**splits, "val": x}
        yield f"fields: {label}", lambda f=fields: d.write_fields(file, f, AXES, {})
    d.write_fields(folder / "good.h5", splits, AXES, {})
    burgers = c.Burgers()
    for label, path in {
        "missing": folder / "none.h5",
        "folder": folder,
        "text": Path(__file__),
    }.items():
        yield f"data: {label}", lambda p=path: d.FieldData(burgers, str(p)).setup("fit")
        yield f"attributes: {label}", lambda p=path: d.read_attributes(p)
        yield f"hash: {label}", lambda p=path: d.hash_fields(p)
        for name in ("mirror", "denoiser"):
            yield f"{name}: {label}", lambda p=path, k=name: load_part(str(p), k)
    torch.save([1, 2], folder / "list.ckpt")
    torch.save({"state_dict": [1]}, folder / "state.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"mirror": 3}}, folder / "recipe.ckpt")
    torch.save(nn.Linear(1, 1).state_dict(), folder / "other.ckpt")
    (folder / "short.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("list.ckpt", "state.ckpt", "recipe.ckpt", "other.ckpt", "short.safetensors"):
        yield f"load_mirror, {name}", lambda f=name: n.load_mirror(str(folder / f))
        yield (
            f"NAMM.init_from, {name}",
            lambda f=name: n.NAMM(tiny_mirror(), burgers, init_from=str(folder / f)),
        )
    good = str(folder / "good.h5")
    yield (
        "samples of another kind",
        lambda: d.FieldData(burgers, good, mirror_samples=good).setup("fit"),
    )
    yield "predict_sizes", lambda: d.FieldData(burgers, good, predict_sizes={"all": 3})


def calls(seed: int, folder: Path, ranges: int = 100) -> list[tuple[str, Call]]:
    """All calls that are written down, and some of those whose numbers are out of range."""
    drawn = of_ranges(random.Random(seed), ranges)
    return [*drawn, *of_fields(), *of_files(folder)]


def answer(call: Call) -> tuple[str, str]:
    """How a call was answered, and its words."""
    try:
        result = call()
    except c.InputError as error:
        text = str(error)
        return ("clear" if "\n" not in text.strip() else "traceback"), text
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "silent", repr(result)[:200]
