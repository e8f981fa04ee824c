"""All problems alike: what every simulation promises, and the whole chain of each."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from constraints import (
    Burgers,
    Count,
    Counter,
    Divergence,
    NavierStokes,
    Periodic,
    Reflection,
    Rotation,
    Spiral,
    Sum,
    TotalBrightness,
)
from datamodules import (
    BlackHoleData,
    BurgersData,
    FieldData,
    GalaxyData,
    KolmogorovData,
    PeriodicData,
    SpiralData,
)
from namm.cli.main import main
from tests.chains import CONFIGS, ROW, TINY

ROOT = CONFIGS.parent


OPTIONS: dict[str, Any] = {"file": "unused.h5", "sizes": {}}


def kolmogorov(constraint: Any) -> KolmogorovData:
    return KolmogorovData(constraint, points=16, frames=2, start=0.2, **OPTIONS)


# what is simulated, and how far a field may be from its constraint in float32
WORLDS: dict[str, tuple[Callable[[], FieldData], float]] = {
    "burgers": (lambda: BurgersData(Burgers(), **OPTIONS), 1e-6),
    "implicit": (
        lambda: BurgersData(Burgers("crank_nicolson"), points=8, frames=4, **OPTIONS),
        1e-6,
    ),
    "divergence": (lambda: kolmogorov(Divergence(2 * torch.pi / 16)), 1e-6),
    "flow": (
        lambda: kolmogorov(Sum([Divergence(2 * torch.pi / 16), NavierStokes()])),
        2e-6,  # each term to 1e-6
    ),
    "periodic": (lambda: PeriodicData(Periodic(), **OPTIONS), 0.0),
    "reflection": (lambda: PeriodicData(Reflection(), points=32, **OPTIONS), 0.0),
    "rotation": (lambda: PeriodicData(Rotation(), points=32, **OPTIONS), 0.0),
    "brightness": (lambda: BlackHoleData(TotalBrightness(), **OPTIONS), 5e-5),
    "count": (lambda: GalaxyData(Count(3, Counter()), points=32, **OPTIONS), float("inf")),
    "spiral": (lambda: SpiralData(Spiral(), std=0.0, **OPTIONS), 3e-6),
}


def simulate(name: str, n: int, seed: int, start: int = 0) -> Tensor:
    torch.set_num_threads(1)
    return WORLDS[name][0]().simulate(n, seed, start)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize("name", WORLDS)
def test_fields_are_the_same_bytes_in_one_process_and_in_two(
    name: str, pool: ProcessPoolExecutor
) -> None:
    x = simulate(name, 6, 0)
    halves = [pool.submit(simulate, name, 3, 0, start) for start in (0, 3)]

    assert torch.equal(x, torch.cat([half.result() for half in halves]))
    assert not any(torch.equal(a, b) for a in x for b in simulate(name, 3, 1))


@pytest.mark.parametrize("name", WORLDS)
def test_a_thousand_fields_satisfy_their_constraint(name: str) -> None:
    build, floor = WORLDS[name]
    data = build()
    x = data.simulate(1000, seed=0)
    exact = data.simulate(100, seed=0, dtype=torch.float64)

    assert x.dtype == torch.float32 and torch.isfinite(x).all()
    if name != "count":  # whose network is not trained here
        assert data.constraint(x).max() <= floor
        # Newton's method for the nearest point of the spiral ends at 1e-10 of its radius
        assert data.constraint(exact).max() <= (3e-10 if name == "spiral" else 1e-10)
    # a pattern that turns into itself is all black in a few of a hundred fields
    least = 900 if name == "rotation" else 980 if name == "reflection" else 1000
    assert len({field.numpy().tobytes() for field in x}) >= least


# the chain of each problem at a scale of seconds
def tiny(problem: str) -> dict[str, Any]:
    """The tiny scale of Burgers, with the data and the operators of another problem."""

    shape, constraint, init, tasks = {
        "kolmogorov": (
            (4, 16, 16),
            {"init_args": {"dx": 2 * torch.pi / 16}},
            {"frames": 2, "start": 0.2},
            {"inverse": {"dim": 1, "index": [0, 1], "size": 4}},
        ),
        "periodic": (
            (1, 16, 16),
            {},
            {},
            {
                "inverse": {"size": [16, 16], "box": [0, 0, 8, 12]},
                "super_resolution": {"factor": 2},
            },
        ),
        "brightness": (
            (1, 16, 16),
            {},
            {},
            {"inverse": {"size": [16, 16], "fraction": 0.2}},
        ),
        "count": (
            (1, 24, 24),
            {"init_args": {"n": 2}},
            {},
            {
                "inverse": {"sigma": 1.0, "size": [24, 24], "boundary": "reflect"},
                "hidden": {"size": [24, 24], "box": [0, 0, 8, 8], "hidden": True},
            },
        ),
    }[problem]
    scale: dict[str, Any] = yaml.safe_load(yaml.safe_dump(TINY))
    scale["base"] = f"{problem}.yaml"
    data, blocks = scale["shared"]["data"]["init_args"], scale["blocks"]
    for key in ("points", "frames"):
        data.pop(key)
    data |= {"points": shape[-1], **init}
    blocks["constraint"] = constraint
    maps = blocks["namm"]["model"]["init_args"]["mirror"]["init_args"]
    if problem == "brightness":  # whose padding is not the one that its data ask for
        maps["inverse_map"]["init_args"]["padding"] = "$padding"
    net = blocks["mdm"]["model"]["init_args"]["denoiser"]["init_args"]["net"]["init_args"]
    net["in_channels"] = net["out_channels"] = 4 * shape[0]
    blocks["inverse"]["model"]["init_args"].pop("operator")
    for task, operator in tasks.items():
        block = blocks.setdefault(task, {"model": {"init_args": {}}})
        block["model"]["init_args"]["operator"] = {"init_args": operator}
    return scale


@pytest.mark.parametrize("problem", ["kolmogorov", "periodic", "brightness", "count"])
def test_chain(problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    file = tmp_path / "configs" / f"{problem}.tiny.yaml"
    file.write_text(yaml.safe_dump(tiny(problem)))
    monkeypatch.chdir(tmp_path)
    assert main(["run", f"configs/{problem}", "--scale", "tiny"]) is None

    folder = tmp_path / f"runs/{problem}-tiny"
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert all(set(row) == ROW for row in rows)
    tasks = {row["task"] for row in rows}
    assert tasks == {"generation", "inverse"} | {
        {"super_resolution": "super-resolution", "hidden": "hidden quarter"}[path.parent.name]
        for path in folder.glob("*/dps")
        if path.parent.name != "inverse"
    }
    for task in tasks:
        methods = {"DPS", "constraint-guided DPS", "mirror-DPS"}
        if task == "generation":
            methods = {"DM", "DM, then f(g(.))", "MDM", "MDM, fine-tuned"}
        mine = [row for row in rows if row["task"] == task]
        assert {row["method"] for row in mine} == methods | {"data"}
        for method in methods:
            metrics = {row["metric"] for row in mine if row["method"] == method}
            assert {"distance", "mmd", "spread", "cycle"} <= metrics
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
