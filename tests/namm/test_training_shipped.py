"""Shipped weights: what they say and compute is what the checkpoint said and computed."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import namm
from constraints import Burgers, InputError
from mdm import DPMSolver, load_denoiser
from namm import NAMM, Flops, Provenance, load_mirror, load_part, space
from namm.cli.main import main
from namm.evaluation.shipping import BEGIN
from namm.evaluation.training_costs import compute, shipped, training
from namm.training.checkpoint import build_part, read_checkpoint
from namm.training.weights import ROOT, holds_weights, pack
from tests.chains import write_tiny
from tests.problems import tiny_mirror

RUNS, SHIPPED = Path("runs/burgers-tiny"), Path("pretrained/burgers")


STAGES = ("namm", "mdm", "finetune", "dm")


TEST = ["run", "configs/burgers", "--scale", "tiny"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""A folder in which the four stages of a tiny problem are trained and shipped."""
    folder = tmp_path_factory.mktemp("shipped")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*TEST, "--to", "dm"]) is None
        assert main(["ship", str(RUNS), str(SHIPPED)]) is None
    return folder


@pytest.fixture
def problem(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def last(stage: str) -> str:
    return str(RUNS / stage / "checkpoints/last.ckpt")


def file(stage: str, folder: Path = SHIPPED) -> str:
    return str(folder / f"{stage}.safetensors")


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_shipped_parts_compute_what_those_of_the_checkpoint_do(problem: Path) -> None:
    x = torch.randn(2, 1, 16, 16)
    for stage in ("namm", "finetune"):
        ours, theirs = load_mirror(file(stage)), load_mirror(last(stage))
        assert same(ours, theirs)
        assert torch.equal(ours.inverse(ours(x)), theirs.inverse(theirs(x)))
    for stage in ("mdm", "dm"):
        ours, theirs = load_denoiser(file(stage)), load_denoiser(last(stage))
        assert same(ours, theirs)
        assert torch.equal(ours(x, torch.tensor(0.5)), theirs(x, torch.tensor(0.5)))
    # the averaged weights differ from the raw ones, so that it matters which are shipped
    assert not same(load_mirror(file("namm")), load_mirror(last("namm"), "raw"))


def test_parts_of_other_stages_come_from_the_files_beside(problem: Path) -> None:
    assert same(load_part(file("mdm"), "mirror"), load_mirror(file("namm")))
    assert isinstance(load_part(file("namm"), "constraint"), Burgers)
    with safe_open(file("mdm"), framework="pt") as content:
        names = content.keys()
    assert {name.split(".")[0] for name in names} == {"denoiser"}


@pytest.mark.parametrize("stage", STAGES)
def test_file_reads_as_its_checkpoint(problem: Path, stage: str) -> None:
    ours, theirs = read_checkpoint(file(stage)), read_checkpoint(last(stage))

    assert ours["global_step"] == theirs["global_step"]
    # another processor may simulate other bits
    assert theirs["provenance"].pop("data")
    assert ours["provenance"] == theirs["provenance"]
    assert ours["hyper_parameters"].keys() == theirs["hyper_parameters"].keys()
    assert Flops._spent(file(stage)) == Flops._spent(last(stage)) > 0
    assert "optimizer_states" not in ours and "current_model_state" not in ours
    assert "runs/" not in json.dumps(ours["hyper_parameters"])
    assert ours["seconds"] > 0


def test_training_can_start_from_shipped_maps(problem: Path) -> None:
    recipe = read_checkpoint(file("namm"))["hyper_parameters"]["mirror"]
    mirror = build_part(recipe)

    NAMM(mirror, Burgers(), init_from=file("namm"))

    assert same(mirror, load_mirror(file("namm")))


def test_load_finds_a_problem_by_name_wherever_it_is_called(
    problem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = namm.load("burgers")
    monkeypatch.setattr("namm.training.weights.ROOT", problem)
    monkeypatch.chdir(tmp_path)
    there = namm.load("burgers")

    assert here.card == SHIPPED / "README.md" and there.card == problem / SHIPPED / "README.md"
    assert same(here.mirror, there.mirror) and same(here.denoiser, there.denoiser)
    # the paths inside a file are found as well
    assert same(load_part(file("mdm"), "mirror"), load_mirror(file("namm")))


def test_load_takes_the_fine_tuned_maps_and_samples_in_three_lines(problem: Path) -> None:
    burgers = namm.load("burgers")
    shape = burgers.mirror.shape(burgers.shape)
    y = DPMSolver(steps=3)(burgers.denoiser, shape, range(4)).y
    x = burgers.mirror.inverse(y)

    assert same(burgers.mirror, load_mirror(last("finetune")))
    expected = DPMSolver(steps=3)(load_denoiser(last("mdm")), (1, 16, 16), range(4)).y
    assert torch.equal(x, load_mirror(last("finetune")).inverse(expected))
    assert burgers.constraint(x).shape == (4,)
    assert burgers.dm is not None and same(burgers.dm, load_denoiser(last("dm")))
    assert not any(
        w.requires_grad for w in (*burgers.mirror.parameters(), *burgers.dm.parameters())
    )


def test_load_needs_maps_and_their_diffusion_model(problem: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pretrained/nothing"):
        namm.load("nothing")
    shutil.copy(file("finetune"), tmp_path)
    with pytest.raises(InputError, match="finetune"):
        namm.load(str(tmp_path))
    shutil.copy(file("mdm"), tmp_path)
    assert namm.load(str(tmp_path)).dm is None


def test_what_is_not_shipped_is_refused_in_a_sentence(problem: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"namm\.safetensors"):
        load_mirror(file("namm"), "raw")
    with pytest.raises(InputError, match=r"'denoiser'.*constraint, mirror"):
        load_denoiser(file("namm"))
    with pytest.raises(InputError, match=r"none\.safetensors"):
        load_mirror("none.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    counter = Path(__file__).parents[2] / "pretrained/count/counter.safetensors"
    for other in (tmp_path / "text.safetensors", counter):
        assert not holds_weights(other)
        with pytest.raises(InputError, match="namm ship"):
            load_mirror(str(other))


def test_weights_without_a_recipe_are_not_shipped() -> None:
    state = {"state_dict": tiny_mirror().state_dict(), "hyper_parameters": {"lr": 1e-3}}
    with pytest.raises(InputError, match="recipe"):
        pack(state)


def test_half_rounds_kernels_and_keeps_the_space(problem: Path, tmp_path: Path) -> None:
    assert main(["ship", str(RUNS), str(tmp_path), "--half"]) is None

    assert space(load_mirror(file("finetune", tmp_path))) == space(load_mirror(file("finetune")))
    for stage in STAGES:
        rounded, whole = (
            read_checkpoint(file(stage, f))["state_dict"] for f in (tmp_path, SHIPPED)
        )
        assert any(not torch.equal(rounded[k], whole[k]) for k in whole)
        for name, weight in whole.items():
            assert rounded[name].dtype == weight.dtype
            # half the spacing of float16: 2^-11 of a number, 2^-25 below the normal ones
            torch.testing.assert_close(rounded[name], weight, rtol=2**-11, atol=2**-25)
            if weight.ndim < 2:
                assert torch.equal(rounded[name], weight)


def test_weight_too_large_for_half_is_refused(problem: Path) -> None:
    state = read_checkpoint(last("namm"))
    name = next(k for k, w in state["state_dict"].items() if "inverse_map" in k and w.ndim > 1)
    state["state_dict"][name].view(-1)[0] = 1e5
    with pytest.raises(InputError, match=r"1e\+05.*float16"):
        pack(state, half=True)


@pytest.mark.parametrize("half", [False, True])
def test_weights_that_are_no_numbers_are_not_shipped(problem: Path, half: bool) -> None:
    state = read_checkpoint(last("namm"))
    name = next(k for k in state["state_dict"] if "inverse_map" in k and "bias" in k)
    state["state_dict"][name].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=name):
        pack(state, half=half)


def test_files_of_the_repository_stay_small() -> None:
    sizes = [f.stat().st_size / 2**20 for f in (ROOT / "pretrained").rglob("*.safetensors")]
    assert sizes and max(sizes) <= 12 and sum(sizes) <= 40  # MiB


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["ship"], 2, "namm ship: the following arguments are required: runs, folder."),
        (["ship", "a", "b", "--halve"], 2, "namm ship: unrecognized arguments: --halve."),
        (["ship", "a", "b"], 2, "namm ship: there is no folder 'a'."),
        (["ship", "configs", "b"], 1, "configs has no checkpoints/last.ckpt of namm"),
    ],
)
def test_command_that_cannot_be_done_is_refused(
    problem: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    assert main(argv) == code
    assert message in capsys.readouterr().err


def test_pretrained_run_without_weights_says_what_it_needs(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("configs/burgers.tiny.yaml", "configs/mine.tiny.yaml")
    assert main(["run", "configs/mine", "--scale", "tiny", "--pretrained"]) == 2
    assert "needs pretrained/mine/dm.safetensors" in capsys.readouterr().err


def test_same_run_gives_the_same_bytes_and_a_card_that_says_so(
    problem: Path, tmp_path: Path
) -> None:
    card = tmp_path / "burgers" / "README.md"
    card.parent.mkdir()
    card.write_text("# Another network\n\nWords of its author.\n")
    for _ in range(2):
        assert main(["ship", str(RUNS), str(card.parent)]) is None

    text = card.read_text()
    assert text.startswith(f"# Another network\n\nWords of its author.\n\n{BEGIN}\n# Trained mo")
    assert text.count("# Trained models") == 1
    sums = [line.split() for line in text.splitlines() if line.endswith(".safetensors")]
    assert [name for _, name in sums] == [f"{stage}.safetensors" for stage in STAGES]
    for digest, name in sums:
        assert digest == hashlib.sha256((card.parent / name).read_bytes()).hexdigest()
    assert "| finetune | the maps, with f fine-tuned on samples of that model | 3 |" in text
    assert "`namm run configs/burgers.yaml --scale tiny --pretrained`" in text


def test_card_promises_no_more_than_there_are_files_for(problem: Path, tmp_path: Path) -> None:
    whole = (SHIPPED / "README.md").read_text()
    shutil.copytree(RUNS / "namm", tmp_path / "runs" / "namm")
    assert main(["ship", str(tmp_path / "runs"), str(tmp_path / "burgers")]) is None
    maps = (tmp_path / "burgers" / "README.md").read_text()

    assert '`namm.load("burgers")` returns' in whole and "--pretrained` runs the tests" in whole
    assert "namm.load(" not in maps and "--pretrained" not in maps
    assert "burgers/namm.safetensors`." in maps


def test_stages_of_another_run_stay_in_the_folder_and_on_the_card(
    problem: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "burgers"
    for stage in ("dm", "namm"):  # each in a run of its own
        shutil.copytree(RUNS / stage, tmp_path / stage / "burgers-tiny" / stage)
        assert main(["ship", str(tmp_path / stage / "burgers-tiny"), str(folder)]) is None
    assert (folder / "dm.safetensors").read_bytes() == Path(file("dm")).read_bytes()

    card, whole = ((f / "README.md").read_text() for f in (folder, SHIPPED))
    rows = [line for line in whole.splitlines() if line.startswith(("| namm |", "| dm |"))]
    assert len(rows) == 2 and "\n".join(rows) in card
    assert "| mdm |" not in card and "namm.load(" not in card


def results(runs: str, stage: str = "") -> dict[str, Any]:
    return json.loads(Path("runs", runs, stage, "results.json").read_text())


def scores(runs: str, stage: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in results(runs, stage)["rows"]]


def test_pretrained_run_tests_the_shipped_files_and_trains_nothing(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TEST, "--pretrained", "--dry-run"]) is None

    shown = [line.split()[2:] for line in capsys.readouterr().out.splitlines()]
    assert [words[0] for words in shown] == [*["test"] * 8, "report"]
    assert shown[-1] == ["report", "runs/burgers-tiny-pretrained"]
    assert f"--model.init_args.denoiser.init_args.checkpoint={file('mdm')}" in shown[2]
    assert f"--model.init_args.mirror.init_args.checkpoint={file('namm')}" in shown[2]


def test_report_counts_the_trainings_behind_shipped_files(problem: Path) -> None:
    config = {"denoiser": file("mdm"), "restorer": file("finetune"), "counter": "a.safetensors"}
    stages = {Path("test"): {"config": config}}
    ours, theirs = shipped(stages), training(RUNS)

    # the maps are behind both, and the plain model behind neither
    assert list(ours) == ["namm", "mdm", "finetune"]
    for stage, facts in ours.items():
        for key in ("steps", "flops", "seconds", "from"):
            assert facts[key] == theirs[stage][key]
    assert compute(stages[Path("test")], ours) == sum(facts["flops"] for facts in ours.values())


@pytest.mark.slow  # eight test stages
def test_pretrained_run_scores_what_the_run_that_trained_did(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = ["--to", "generation/mdm_finetuned"]
    assert main([*TEST, *end]) is None
    assert main([*TEST, "--pretrained", *end]) is None
    for runs in ("burgers-tiny", "burgers-tiny-pretrained"):
        assert main(["report", f"runs/{runs}"]) is None

    assert sorted(p.name for p in Path("runs/burgers-tiny-pretrained").glob("*/")) == [
        "generation"
    ]
    for stage in ("generation/dm_restored", "generation/mdm", "generation/mdm_finetuned"):
        assert scores("burgers-tiny-pretrained", stage) == scores("burgers-tiny", stage)
    ours, theirs = results("burgers-tiny-pretrained"), results("burgers-tiny")
    assert ours["training_flops"] == theirs["training_flops"]
    for stage in STAGES:
        for key in ("steps", "flops", "seconds", "from"):
            assert ours["training"][stage][key] == theirs["training"][stage][key]

    # other weights in the same files are another stage
    whole = Path(file("finetune")).read_bytes()
    shutil.copy(file("namm"), file("finetune"))
    try:
        capsys.readouterr()
        assert main([*TEST, "--pretrained", *end]) == 2
        assert "its input 'finetune' has changed" in capsys.readouterr().err
    finally:
        Path(file("finetune")).write_bytes(whole)


def test_provenance_refuses_data_of_another_shape(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["test", "-c", "configs/burgers.tiny.yaml::generation/dm"]
    argv += ["--trainer.logger.version=other", "--data.init_args.file=data/other.h5"]
    argv += ["--data.init_args.points=24"]
    argv += [f"--model.init_args.denoiser.init_args.checkpoint={file('dm')}"]

    assert main(argv) == 1
    assert f"The checkpoint {file('dm')} has shape " in capsys.readouterr().err


def test_parameters_in_a_tuple_are_compared_after_they_were_shipped() -> None:
    callback = Provenance()
    callback.own = {"constraint": {"class": "Periodic", "tiles": (2, 2)}}

    callback._compare({"constraint": {"class": "Periodic", "tiles": [2, 2]}}, "The file")
    with pytest.raises(InputError, match=r"tiles.*\[2, 4\]"):
        callback._compare({"constraint": {"class": "Periodic", "tiles": [2, 4]}}, "The file")


def test_record_of_a_training_counts_its_cost_and_stands_for_no_weights(
    problem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "burgers"
    assert main(["ship", str(RUNS), str(folder), "--record", "namm"]) is None
    assert main(["ship", str(RUNS), str(folder), "--record", "maps"]) == 2
    record, whole = file("namm", folder), file("namm")

    assert Path(record).stat().st_size < Path(whole).stat().st_size / 2
    facts = ("global_step", "callbacks", "hyper_parameters", "provenance")
    ours, theirs = read_checkpoint(record), read_checkpoint(whole)
    assert all(ours[key] == theirs[key] for key in facts)
    with pytest.raises(InputError, match="record"):
        load_mirror(record)
    with pytest.raises(InputError, match="record"):
        NAMM(tiny_mirror(), Burgers(), init_from=record)
    assert same(namm.load(str(folder)).mirror, load_mirror(file("finetune")))

    card = (folder / "README.md").read_text()
    assert "| namm | the maps g and f, the record alone | " in card
    assert "--record namm`." in card and "but for the maps before fine-tuning" in card
    assert f"checkpoint={folder}/finetune.safetensors`." in card

    # the tests that need the weights are left out, and the cost of the others stays
    monkeypatch.setattr("namm.cli.plan.find", lambda path: folder / path.name)
    capsys.readouterr()
    assert main([*TEST, "--pretrained", "--dry-run"]) is None
    out = capsys.readouterr().out
    assert "'generation/mdm' is left out: the weights of namm are not shipped." in out
    assert out.count("namm test") == 7
