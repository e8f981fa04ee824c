"""The sweeps over trainings, on tiny networks: what is trained, shared and written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.sweep import ablations, chains, compute
from benchmarks.sweep.chains import Chain, chain_stages, summary, table
from constraints import InputError
from namm.cli.configs import Problem
from namm.cli.plan import Job, flat, plan
from tests.chains import TINY, write_tiny

METHODS = ["DM", "DM, then f(g(.))", "MDM", "MDM, fine-tuned"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Job]]:
    """A folder with the configurations of Burgers and a scale of seconds, and its stages."""

    folder = tmp_path_factory.mktemp("sweep")
    file = write_tiny(folder)
    others = dict.fromkeys(map(str, Problem(file).stages.keys() - compute.STAGES))
    file.write_text(yaml.safe_dump(TINY | {"stages": others}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, plan(Path("configs/burgers"), "tiny")


@pytest.fixture
def planned(copied: tuple[Path, list[Job]], monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The stages, in the working directory that their commands are for."""

    monkeypatch.chdir(copied[0])
    return copied[1]


def give(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr("sys.argv", ["sweep.py", "--scale", "tiny", *options])


def _settings(stage: Job) -> dict[str, Any]:
    """The values of what a stage trains or uses, but for where it is."""

    values = flat({key: stage.config[key] for key in ("model", "ema")})
    return {key: value for key, value in values.items() if "runs/" not in str(value)}


def row(setting: str, method: str, seed: int, metric: str, value: float) -> dict[str, Any]:
    return {
        **{"setting": setting, "method": method, "training_seed": seed, "metric": metric},
        **{"value": value, "ci95": [value - 0.5, value + 0.5]},
        **{"n": 128, "training_flops": 2e12 + seed * 1e12},
    }


def test_table_has_means_over_seeds_and_each_of_them() -> None:
    rows = [
        row("1x", method, seed, metric, value * (1 + seed))
        for method, value in (("DM", 6.0), ("MDM", 2.0))
        for seed in (0, 1)
        for metric in ("distance", "spectrum")
    ]
    lines = table(rows).splitlines()

    assert lines[0] == (
        "| setting | method | distance | times lower | seed 0 | seed 1 | spectrum | n | "
        "trained TFLOP |"
    )
    assert lines[2] == "| 1x | DM | 9 | 1 | 6 ± 0.5 | 12 ± 0.5 | 9 | 128 | 2.5 |"
    assert lines[3] == "| 1x | MDM | 3 | 3 | 2 ± 0.5 | 4 ± 0.5 | 3 | 128 | 2.5 |"
    assert summary(rows)["1x", "MDM"]["training_flops"] == 2.5e12


@pytest.mark.parametrize(
    ("spread", "cycle", "held"),
    [
        (0.9, 0.02, True),
        (1.09, 0.0, True),
        (0.89, 0.0, False),
        (1.11, 0.0, False),
        (1, 0.021, False),
    ],
)
def test_a_point_is_hollow_where_a_guard_fails(spread: float, cycle: float, held: bool) -> None:
    values = {"distance": 1.0, "spread": spread, "cycle": cycle}
    rows = [row("1x", "MDM", 0, metric, value) for metric, value in values.items()]
    good = {"distance": 1.0, "spread": 1.0, "cycle": 0.0}
    for other in (("2x", "MDM", 0), ("1x", "DM", 0), ("1x", "MDM", 1)):
        rows += [row(*other, metric, value) for metric, value in good.items()]

    assert compute.guarded(rows, rows[0]) is held
    assert all(compute.guarded(rows, other) for other in rows[3:])


@pytest.mark.slow  # parses as many configurations as there are stages in all
def test_ablations_change_one_thing_each(planned: list[Job]) -> None:
    found = {chain.name: chain for chain in ablations.chains([3], 1.0, planned)}
    settings = {}
    for name, chain in found.items():
        stages = {stage.name: stage for stage in chain_stages(chain, planned, Path("runs/s"))}
        assert tuple(stages) == chain.stages
        assert {stage.config["seed_everything"] for stage in stages.values()} == {3}
        settings[name] = stages
    base = settings.pop("1x")
    for name, stages in settings.items():
        for stage, made in stages.items():
            ours, theirs = (_settings(s[stage]) for s in (stages, base))
            changed = {key for key in ours | theirs if ours.get(key) != theirs.get(key)}
            where = (*ablations.MAPS, "mdm") if name == "raw weights" else ablations.MAPS
            assert bool(changed) == (stage in where)
            # what is trained is read by what follows
            text = json.dumps(made.config)
            assert "runs/s/1x-3" not in text and (stage == "namm" or made.inputs)
    weights = [
        settings[f"constraint_weight x{factor}"]["finetune"].config["model"]["init_args"][
            "constraint_weight"
        ]
        for factor in ("0.1", "10")
    ]
    assert weights == [0.1, 10.0]  # of the 1.0 in burgers.yaml


def test_configured_chain_is_the_same_in_both_sweeps(
    planned: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch)
    options = chains.parse("Sweep.", "sweep")
    ours, theirs = (
        {stage.name: stage for stage in chain_stages(chain, planned, options.runs)}
        for chain in (compute.chains(options)[2], ablations.chains([0, 1], 1.0, planned)[0])
    )

    assert {name: ours[name].key for name in theirs} == {n: s.key for n, s in theirs.items()}
    assert {stage.folder for stage in theirs.values()} < {stage.folder for stage in ours.values()}


def test_steps_that_no_configuration_gives_are_refused(planned: list[Job]) -> None:
    by_epochs = replace(planned[0], config={"trainer": {"max_steps": -1, "max_epochs": 100}})
    chain = Chain("2x", 0, ["namm"], factor=2.0)

    with pytest.raises(InputError, match=r"'namm'.*--scale"):
        list(chain_stages(chain, [by_epochs], Path("runs/sweep")))


@pytest.mark.slow
def test_compute_trains_at_equal_operations_and_goes_on(
    planned: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--seeds", "0", "--runs", "runs/compute", "--out", "out"]
    give(monkeypatch, *options, "--steps", "0.7")
    monkeypatch.setattr(compute, "FACTORS", (0.5, 1.0))
    compute.main()

    found = summary(json.loads(Path("out/results.json").read_text())["rows"])
    assert list(found) == [(setting, method) for setting in ("0.5x", "1x") for method in METHODS]
    for setting in ("0.5x", "1x"):
        plain, ours = (found[setting, method]["training_flops"] for method in ("DM", METHODS[3]))
        # whole steps of the plain model, of which there are a few
        assert plain == pytest.approx(ours, rel=0.1)
    assert Path("out/compute.png").read_bytes().startswith(b"\x89PNG")

    files = list(Path("runs/compute").glob("*/*/checkpoints/last.ckpt"))
    before = {file: file.stat().st_mtime_ns for file in files}
    shutil.rmtree("runs/compute/1x-0/generation/mdm")
    compute.main()
    assert {file: file.stat().st_mtime_ns for file in files} == before and len(files) == 2 * 4
    give(monkeypatch, *options, "--steps", "0.4")
    with pytest.raises(InputError, match=r"'namm'.*max_steps.*\b2\b.*\b1\b"):
        compute.main()


@pytest.mark.slow
def test_ablations_are_trained_and_scored(
    planned: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--seeds", "0", "--runs", "runs/ablations", "--out", "out", "--steps", "0.5"]
    give(monkeypatch, *options)
    changes = ablations.changes(planned)
    few = {name: changes[name] for name in ("zero padding", "ResNet forward map", "raw weights")}
    monkeypatch.setattr(ablations, "changes", lambda _: few)
    ablations.main()

    found = summary(json.loads(Path("out/results.json").read_text())["rows"])
    settings = ["1x", *few]
    assert list(found) == [(setting, method) for setting in settings for method in METHODS[2:]]
    values = [cells["distance"] for cells in found.values()]
    assert len(set(values)) == len(values)
    # the average of few steps is not where they ended
    raw = torch.load("runs/ablations/raw_weights-0/mdm/checkpoints/last.ckpt", weights_only=True)
    for name, weight in raw["state_dict"].items():
        assert torch.equal(weight, raw["current_model_state"][name])
