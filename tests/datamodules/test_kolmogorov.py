"""Simulated states of the Kolmogorov flow, and their file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from constraints import Divergence, InputError, NavierStokes, Sum, spectral
from datamodules import KolmogorovData, check_fits, read_attributes

CONSTRAINTS = (Divergence(), NavierStokes())


TAU = 2 * np.pi


# data
def data(constraint: Any = None, **options: Any) -> KolmogorovData:
    options = {"points": 16, "frames": 3, "start": 0.2, "file": "", "sizes": {}} | options
    return KolmogorovData(constraint or NavierStokes(substeps=10), **options)


def test_initial_velocity_is_smooth_and_scaled() -> None:
    module = data(points=64, max_velocity=2.0, peak_wavenumber=6.0)
    uv = module.initial([(0, i) for i in range(20)])
    k = spectral.wavenumbers(64)
    basis = spectral.modes(64, uv.dtype, uv.device)
    energy = (basis.T @ uv @ basis).square().mean(dim=(0, 1))
    radius = torch.hypot(k[:, None], k).round().long()
    spectrum = torch.zeros(64).double().index_add(0, radius.flatten(), energy.flatten())

    assert Divergence(module.dx)(uv).max() <= 1e-13
    speed = torch.linalg.vector_norm(uv, dim=1).amax(dim=(1, 2))
    torch.testing.assert_close(speed, torch.full_like(speed, 2.0))
    # k times the square of the filter peaks at exp(-1/8) of its centre
    assert 4 <= int(spectrum.argmax()) <= 6
    assert spectrum[20:].sum() < 0.05 * spectrum.sum()


@pytest.mark.parametrize("points", [16, 15])
def test_a_thousand_fields_satisfy_both_constraints(points: int) -> None:
    flow = NavierStokes(substeps=10)
    module = data(Sum([Divergence(TAU / points), flow]), points=points, frames=2)
    x = module.simulate(1000, seed=0)
    exact = module.simulate(50, seed=0, dtype=torch.float64)

    for constraint in (Divergence(TAU / points), flow):
        assert constraint(x).max() <= 1e-6 and constraint(exact).max() <= 1e-10
    assert len(set(map(bytes, x.numpy()))) == 1000


@pytest.mark.parametrize(("points", "cut"), [(64, 1), (64, 3), (15, 4), (32, 5)])
def test_field_depends_on_seed_and_position_alone(points: int, cut: int) -> None:
    module = data(NavierStokes(), points=points, frames=2)
    x = module.simulate(7, seed=1, dtype=torch.float64)
    parts = [
        module.simulate(n, 1, start, torch.float64) for n, start in ((cut, 0), (7 - cut, cut))
    ]

    assert torch.equal(x, torch.cat(parts))
    other = module.simulate(7, seed=2, dtype=torch.float64)
    assert not torch.isclose(x, other).flatten(1).all(dim=1).any()


def test_first_state_is_that_at_the_start() -> None:
    key, flow = (0, "field", 0, 0), NavierStokes(substeps=10)
    late, early = (data(flow, start=start).draw([key]) for start in (0.4, 0.0))

    torch.testing.assert_close(early[:, :2], data(flow).initial([key]))
    assert torch.equal(late[:, :2], early[:, 4:])


def test_file_says_what_it_holds(tmp_path: Path) -> None:
    path, both = str(tmp_path / "fields.h5"), Sum([Divergence(TAU / 16), NavierStokes()])
    module = data(both, file=path, sizes={"train": 3, "val": 2})
    module.prepare_data()
    module.setup("fit")
    found = read_attributes(path)

    assert module.shape == (6, 16, 16)
    assert found.items() >= module.describe().items()
    assert found["packing"] == "b t c x y -> b (t c) x y" and found["axes"] == ["x", "y"]
    assert found["parameters"]["t0"] == 0.2 and found["redrawn"] == 0
    with h5py.File(path) as file:
        assert file["coords/t"][:].tolist() == pytest.approx([0.2, 0.4, 0.6])
        assert file["coords/x"][:2].tolist() == pytest.approx([TAU / 32, 3 * TAU / 32])
        assert file["train/x"].shape == (3, 6, 16, 16)
    for constraint in (Divergence(TAU / 16), NavierStokes()):
        check_fits(path, constraint)
    with pytest.raises(InputError, match="drag"):
        check_fits(path, NavierStokes(drag=0.2))


def test_file_agrees_with_the_reference(kolmogorov_reference: Path) -> None:
    module = data(Sum(list(CONSTRAINTS)), points=64, frames=8, start=3.0)
    theirs, ours = read_attributes(kolmogorov_reference), module.describe()

    for key in ("problem", "axes", "channels", "boundary", "frames", "packing", "units"):
        assert ours[key] == theirs[key]
    assert ours["parameters"].items() <= theirs["parameters"].items()
    with h5py.File(kolmogorov_reference) as file:
        for axis, (values, units) in module.coords().items():
            np.testing.assert_allclose(values, file[f"coords/{axis}"][:], rtol=1e-12)
            assert file[f"coords/{axis}"].attrs["units"] == units


class Fragile(NavierStokes):
    """A flow that breaks down where the first velocity is positive."""

    def roll(self, uv: Tensor, frames: int, first: int = 1) -> Tensor:
        states = super().roll(uv, frames, first)
        states[-1, uv[:, 0, 0, 0] > 0] = float("nan")
        return states


def test_flow_that_breaks_down_is_drawn_again_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "fields.h5"
    module = data(Fragile(substeps=10), file=str(file), sizes={"train": 8})
    module.prepare_data()

    def attempts(i: int) -> Iterator[bool]:
        for attempt in range(10):
            yield bool(module.initial([(0, "field", i, attempt)])[0, 0, 0, 0] > 0)

    expected = sum(list(attempts(i)).index(False) for i in range(8))
    assert read_attributes(file)["redrawn"] == expected > 0
    with h5py.File(file) as opened:
        assert np.isfinite(opened["train/x"][:]).all()


def test_flow_is_found_in_the_constraint() -> None:
    flow = NavierStokes(drag=0.3)

    assert data(flow).flow is flow
    assert data(Sum([Divergence(TAU / 16), flow])).flow is flow
    assert data(Divergence(TAU / 16)).flow.drag == 0.1
    assert data(Divergence(TAU / 16), flow=flow).flow is flow
    assert data(NavierStokes(drag=0.3), flow=flow).flow is flow
    with pytest.raises(InputError, match=r"0\.3.*0\.1"):
        data(NavierStokes(), flow=flow)
    with pytest.raises(InputError, match=r"0\.5"):
        data(Divergence(0.5))


@pytest.mark.parametrize(
    ("flow", "options", "message"),
    [
        ({"substeps": 2}, {}, r"\b0\.1\b.*0\.0654"),
        ({}, {"max_velocity": 30.0}, r"31 substeps"),
        ({"viscosity": 5.0}, {}, r"0\.0077.*26 substeps"),
        ({}, {"start": 0.3}, r"0\.2.*0\.3"),
        ({}, {"start": -0.2}, r"-0\.2"),
        ({}, {"max_velocity": 0.0}, r"max_velocity.*0\.0"),
        ({}, {"frames": 1}, r"\b2\b"),
        ({}, {"points": 0}, r"points?.*\b0\b"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    flow: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        data(NavierStokes(**flow), **options)
