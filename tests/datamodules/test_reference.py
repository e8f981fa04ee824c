"""Fields that others have made: served as they are, measured, and solved for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

from constraints import Burgers, Divergence, InputError, derive_seed
from datamodules import ReferenceData
from inverse import DPS, Cost, Inverse, Operator, Select, Solver
from mdm import Denoiser, DiffusersDenoiser, Result
from namm import ICNN, MirrorMap, PatchNet
from namm.cli import lightning as cli
from tests.datamodules.references import Late, solve, value
from tests.problems import AXES, Tiny, tiny_data, tiny_denoiser, tiny_mirror

CONFIGS = Path(__file__).parents[2] / "configs"


STATES = [0, 1, 14, 15]  # the velocities of states 1 and 8


class Echo(Solver):
    """A solver that keeps what it was asked, by the seeds of the samples, and answers with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[int, Tensor] = {}

    def forward(
        self,
        denoiser: Denoiser,
        operator: Operator,
        m: Tensor,
        shape: Sequence[int],
        seeds: Sequence[int],
        given: Any = None,
    ) -> Result:
        self.asked |= dict(zip(seeds, m, strict=True))
        y = m.new_zeros(len(m), *shape)
        return Result(y, y)

    def cost(self, denoiser: Denoiser) -> Cost:
        return Cost(0, 0)


def burgers(file: Path) -> ReferenceData:
    return ReferenceData(Burgers(), str(file))


def kolmogorov(file: Path) -> ReferenceData:
    return ReferenceData(Divergence(2 * torch.pi / 64), str(file))


def stored(file: Path) -> Tensor:
    with h5py.File(file) as fields:
        return torch.from_numpy(fields["test/x"][:])


def test_burgers_fields_are_served_as_they_are(reference: Path, tmp_path: Path) -> None:
    data, echo = burgers(reference), Echo()
    rows = solve(tmp_path, data, Select(-1, 8, 64, 0.2), echo, fields=8, samples=1)

    x = stored(reference)
    batches = list(data.test_dataloader())
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), x)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(8))
    # turned around, they are 0.02 away
    floor = value(rows, method="data", metric="distance")
    assert floor["value"] <= 1e-6 and floor["n"] == 8
    for i in range(8):
        m = echo.asked[derive_seed(0, "solve", i, 0)]
        error = m - x[i, :, :, :8]
        # 512 numbers: the std of the noise is known to 3 %
        assert float(error.std()) == pytest.approx(0.2, rel=0.13)
        assert float(error.mean().abs()) < 0.04


def test_kolmogorov_states_one_and_eight_are_measured(
    kolmogorov_reference: Path, tmp_path: Path
) -> None:
    data, echo = kolmogorov(kolmogorov_reference), Echo()
    operator = Select(1, STATES, 16, 0.0)
    rows = solve(tmp_path, data, operator, echo, fields=4, samples=1)

    x = stored(kolmogorov_reference)
    # with the axes exchanged, they are 2.8 away
    floor = value(rows, method="data", metric="distance")
    assert floor["value"] <= 1e-6 and floor["n"] == 4
    for i in range(4):
        m = echo.asked[derive_seed(0, "solve", i, 0)]
        states = x[i].unflatten(0, (8, 2))
        assert torch.equal(m, torch.cat([states[0], states[7]]))


def test_field_has_one_measurement_whichever_others_are_measured(tmp_path: Path) -> None:
    data = tiny_data(tmp_path, batch_size=4)
    every, alone = Echo(), Echo()
    operator = Select(-1, 3, 8, 0.2)
    solve(tmp_path / "all", data, operator, every, fields=6, samples=3)
    rows = solve(tmp_path / "one", data, operator, alone, first=3, fields=1, samples=3)

    seeds = [derive_seed(0, "solve", 3, k) for k in range(3)]
    assert list(alone.asked) == seeds
    assert all(torch.equal(alone.asked[seed], every.asked[seed]) for seed in seeds)
    assert value(rows, metric="chi2")["n"] == 3
    assert value(rows, method="data", metric="distance")["n"] == 6

    rest = Echo()
    solve(tmp_path / "rest", data, operator, rest, first=1, fields=5, samples=3)
    first = {derive_seed(0, "solve", 0, k) for k in range(3)}
    assert set(rest.asked) == set(every.asked) - first


def test_both_ends_are_scored_on_burgers(reference: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"fields": 2, "samples": 2}
    operator, solver = Select(-1, 8, 64, 0.2), DPS(transition=Late())
    plain = solve(tmp_path / "a", burgers(reference), operator, solver, **options)
    mirror = tiny_mirror()
    both = solve(tmp_path / "b", burgers(reference), operator, solver, mirror=mirror, **options)

    for rows in (plain, both):
        for metric in ("distance", "chi2", "relative_error"):
            ends = [
                value(rows, method="dps", protocol=protocol, metric=metric)
                for protocol in ("clean", "published")
            ]
            assert all(end["n"] == 4 and end["calls"] == end["vjps"] == 3 for end in ends)
            assert ends[0]["value"] != ends[1]["value"]
        # 8 frames of 64 numbers are measured, the first is free
        assert value(rows, metric="chi2_floor", protocol="clean")["value"] == 7 / 8


def test_both_ends_are_scored_on_kolmogorov(kolmogorov_reference: Path, tmp_path: Path) -> None:
    maps = MirrorMap(
        ICNN(channels=16, width=4, layers=1, padding=AXES),
        PatchNet(channels=16, patch=2, width=8, blocks=1, detail=4, finish=1, padding=AXES),
    )
    rows = solve(
        tmp_path,
        kolmogorov(kolmogorov_reference),
        Select(1, STATES, 16, 0.2),
        DPS(transition=Late()),
        denoiser=DiffusersDenoiser(Tiny(16), padding=AXES),
        mirror=maps,
        fields=2,
        samples=2,
    )

    for protocol in ("clean", "published"):
        assert value(rows, method="dps", protocol=protocol, metric="distance")["n"] == 4


def test_absent_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.h5"):
        burgers(tmp_path / "absent.h5").setup("test")


@pytest.mark.parametrize("stage", ["fit", "validate", "predict"])
def test_nothing_is_trained_on_reference_fields(stage: str) -> None:
    with pytest.raises(InputError, match=f"`{stage}`"):
        burgers(Path("any.h5")).setup(stage)


def test_fields_of_another_equation_are_refused(reference: Path) -> None:
    with pytest.raises(InputError, match=r"viscosity"):
        ReferenceData(Burgers(viscosity=0.1), str(reference)).setup("test")


def test_first_field_must_exist(tmp_path: Path) -> None:
    data, operator = tiny_data(tmp_path), Select(-1, 3, 8, 0.2)
    for first, fields in ((6, 1), (4, 3)):
        message = rf"{fields}\b.*{first}\b.*\b6\b"
        with pytest.raises(InputError, match=message):
            solve(tmp_path / "run", data, operator, Echo(), first=first, fields=fields)
    with pytest.raises(ValueError, match=r"first.*-1"):
        Inverse(tiny_denoiser(), Burgers(), operator, Echo(), first=-1)


@pytest.mark.parametrize(
    ("problem", "stage", "weight", "wanted"),
    [
        ("burgers", "first/guided_dps", 200.0, (0, 1, 32)),
        ("burgers", "others/mirror_dps", None, (1, 7, 8)),
        ("kolmogorov", "all/guided_dps", 200.0, (0, 4, 8)),
    ],
)
def test_configurations_keep_the_published_protocol(
    problem: str, stage: str, weight: float | None, wanted: tuple[int, int, int]
) -> None:
    config = cli.parse(["test", "-c", f"{CONFIGS}/{problem}-reference.yaml::{stage}"])
    model = config["model"]["init_args"]
    solver = model["solver"]

    assert config["data"]["class_path"] == "datamodules.ReferenceData"
    assert (model["first"], model["fields"], model["samples"]) == wanted
    assert solver["class_path"] == "inverse.DPS" and solver["init_args"]["zeta"] == 0.05
    assert solver["init_args"]["transition"]["class_path"] == "mdm.Ancestral"
    guide = solver["init_args"]["constraint"]
    assert (guide and solver["init_args"]["weight"]) == weight
    assert guide in (None, model["constraint"])
    space = "mdm" if stage.endswith("mirror_dps") else "dm"
    checkpoint = model["denoiser"]["init_args"]["checkpoint"]
    assert checkpoint == f"pretrained/{problem}/{space}.safetensors"
