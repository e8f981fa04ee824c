"""Recipes of strangers, planted in every file that is read: no code of theirs runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import namm
from constraints import InputError
from mdm import MDM, load_denoiser
from namm import NAMM, load_mirror, load_part
from namm.cli.main import main
from tests.attacks.planted import (
    NETWORKS,
    PRIOR,
    RAN,
    assert_nothing_ran,
    named,
    plant,
    plant_results,
    stranger,
)
from tests.commands import FILES, edited, write
from tests.commands import PROBLEM as TINY

__all__ = ["stranger"]


def as_maps(net: Any) -> dict[str, Any]:
    return named("namm.MirrorMap", forward_map=net, inverse_map=named("torch.nn.Identity"))


def as_denoiser(net: Any) -> dict[str, Any]:
    return named("mdm.DiffusersDenoiser", net=net)


def as_rule(net: Any) -> dict[str, Any]:
    return named("constraints.Count", n=8, counter=net)


def problem(net: Any) -> Any:
    maps = plant("pretrained/evil/namm.safetensors", mirror=as_maps(net), constraint=as_rule(net))
    plant("pretrained/evil/mdm.safetensors", denoiser=as_denoiser(net), mirror=as_maps(net))
    assert Path(maps).exists()
    return namm.load("evil")


def module(stage: Any, **recipes: Any) -> Any:
    instantiator = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    return stage.load_from_checkpoint(plant("a.ckpt", **recipes, **instantiator))


# the places in Python that build a part of a file
PLACES: dict[str, Callable[[Any], Any]] = {
    "maps, weights": lambda net: load_mirror(plant("a.safetensors", mirror=as_maps(net))),
    "maps, checkpoint": lambda net: load_mirror(plant("a.ckpt", mirror=as_maps(net))),
    "denoiser, weights": lambda net: load_denoiser(
        plant("a.safetensors", denoiser=as_denoiser(net))
    ),
    "denoiser, checkpoint": lambda net: load_denoiser(
        plant("a.ckpt", denoiser=as_denoiser(net)), "raw"
    ),
    "constraint": lambda net: load_part(plant("a.ckpt", constraint=as_rule(net)), "constraint"),
    "problem": problem,
    "Lightning, maps": lambda net: module(NAMM, mirror=as_maps(net), constraint=as_rule(net)),
    "Lightning, denoiser": lambda net: module(MDM, denoiser=as_denoiser(net)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("place", PLACES)
def test_recipe_of_a_stranger_is_refused_in_python(
    place: str, network: str, stranger: Path
) -> None:
    refusals = (InputError, ValueError) if place.startswith("Lightning") else InputError
    with pytest.raises(refusals) as refused:
        PLACES[place](NETWORKS[network])
    assert_nothing_ran()
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("network", [k for k, net in NETWORKS.items() if isinstance(net, dict)])
@pytest.mark.parametrize("part", ["mirror", "denoiser", "constraint"])
def test_recipe_in_place_of_a_whole_part_is_refused(
    part: str, network: str, stranger: Path
) -> None:
    with pytest.raises(InputError):
        load_part(plant("a.ckpt", **{part: NETWORKS[network]}), part, kind=KINDS[part])
    assert_nothing_ran()


KINDS = {"mirror": namm.Mirror, "denoiser": load_denoiser.__annotations__["return"]}
KINDS["constraint"] = namm.NAMM.__init__.__annotations__["constraint"]


@pytest.mark.parametrize("network", [k for k, net in NETWORKS.items() if isinstance(net, dict)])
def test_constraint_of_results_is_refused_by_the_report(
    network: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_results(Path("runs/a/test"), NETWORKS[network])

    assert main(["report", "runs/a"]) in (1, 2)
    assert_nothing_ran()
    error = capsys.readouterr().err
    assert error.startswith("namm: error: ") and "Traceback" not in error


TEST = ["test", "-c", "trainer.yaml", "-c", "test.yaml"]
VERBS = {
    "test, denoiser": [*TEST, "--model.denoiser.init_args.checkpoint=a.safetensors"],
    "test, checkpoint": [*TEST, "--model.denoiser.init_args.checkpoint=a.ckpt"],
    "test, mirror": [*TEST, "--model.mirror={class_path: namm.load_mirror, init_args: "
                     "{checkpoint: a.ckpt}}"],
    "fit, mirror": ["fit", *FILES, "--model=mdm.MDM", "--model.denoiser.class_path="
                    "mdm.load_denoiser", "--model.denoiser.init_args.checkpoint=a.ckpt"],
}  # fmt: skip


@pytest.mark.parametrize("network", ["a module beside", "a function of torch that runs text"])
@pytest.mark.parametrize("verb", VERBS)
def test_recipe_of_a_stranger_is_refused_by_a_command(
    verb: str, network: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_test(stranger)
    net = NETWORKS[network]
    for suffix in ("ckpt", "safetensors"):
        plant(f"a.{suffix}", mirror=as_maps(net), denoiser=as_denoiser(net))

    assert main(VERBS[verb]) == 1
    assert_nothing_ran()
    error = capsys.readouterr().err
    module = net["class_path"].rpartition(".")[0]
    assert net["class_path"] in error and f"--trust {module}" in error


MODEL = named(
    "mdm.Generation",
    denoiser=named("mdm.load_denoiser", checkpoint="a.ckpt"),
    constraint=TINY["data"]["init_args"]["constraint"],
)


def write_test(folder: Path, constraint: Any = None) -> None:
    model = edited(MODEL, "init_args.constraint", constraint) if constraint else MODEL
    write("test.yaml", {"model": model, "data": TINY["data"]})


OTHERS = {  # which read a checkpoint, and build none of its parts
    "resume": ["fit", *FILES, "--ckpt_path=a.ckpt"],
    "validate": ["validate", *FILES, "--ckpt_path=a.ckpt"],
    "test": ["test", *FILES, "--model=namm.Counting", "--model.counter=constraints.Counter",
             "--ckpt_path=a.ckpt"],
    "predict": ["predict", *FILES, *PRIOR, "--ckpt_path=a.ckpt"],
    "start": ["fit", *FILES, "--model.init_from=a.safetensors"],
    "operations": ["fit", *FILES, "--flops.match=[a.safetensors]"],
    "check": ["check", "Count", "--constraint.counter=constraints.load_counter",
              "--constraint.counter.file=a.ckpt", "--shape=[1,16,16]"],
    "run": ["run", "mine.yaml"],
    "run, pretrained": ["run", "mine.yaml", "--pretrained"],
}  # fmt: skip


@pytest.mark.parametrize("verb", OTHERS)
def test_recipe_beside_the_weights_that_are_wanted_never_runs(
    verb: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = NETWORKS["a module beside"]
    for file in ("a.ckpt", "a.safetensors", "pretrained/mine/mdm.safetensors"):
        plant(file, mirror=as_maps(net), denoiser=as_denoiser(net), counter=net)
    write_test(stranger)
    checkpoint = "{runs}/mdm/checkpoints/last.ckpt" if "pretrained" in verb else "a.ckpt"
    test = {
        "verb": "test",
        "model": {"init_args": {"denoiser": {"init_args": {"checkpoint": checkpoint}}}},
    }
    shared = {"model": MODEL, "data": TINY["data"], "trainer": {"accelerator": "cpu"}}
    write("mine.yaml", {"shared": shared, "stages": {"generation": test}})

    assert main(OTHERS[verb]) == 1
    assert_nothing_ran()
    assert "namm: error: " in capsys.readouterr().err


def test_shipped_recipe_of_a_stranger_is_data(stranger: Path) -> None:
    net = NETWORKS["a function of torch that runs text"]
    plant("runs/toy/namm/checkpoints/last.ckpt", mirror=as_maps(net), constraint=as_rule(net))
    assert main(["ship", "runs/toy", "toy"]) is None
    with pytest.raises(InputError, match="reduce_graph_module"):
        load_mirror("toy/namm.safetensors")
    assert_nothing_ran()


@pytest.mark.parametrize(
    "net",
    [NETWORKS["a function of torch that runs text"], NETWORKS["a function beside"]],
    ids=["torch", "beside"],
)
def test_configuration_may_not_name_a_function(
    net: Any, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = edited(TINY, "model", named("mdm.MDM", denoiser=as_denoiser(net)))
    write("problem.yaml", config)

    assert main(["fit", *FILES]) != 0
    assert f"{net['class_path']} is no class" in capsys.readouterr().err
    assert not RAN.exists() or RAN.read_text() != "ran"  # its module may be imported


# the ways in which a user lets a module in
def test_module_is_let_in_by_trust_in_python(stranger: Path) -> None:
    net = as_denoiser(named("planted.Net"))
    file = plant("a.ckpt", denoiser=net, mirror=named("planted.Maps"))
    for part, load in (("denoiser", load_denoiser), ("mirror", load_mirror)):
        with pytest.raises(InputError, match=r"trust=\['planted'\]"):
            load(file)
        with pytest.raises(InputError, match=part):  # built; the weights are of another network
            load(file, trust=["planted"])
        assert RAN.exists()
    RAN.unlink()
    with pytest.raises(InputError, match="'package'"):  # and no other module is
        load_mirror(plant("a.ckpt", mirror=named("package.Maps")), trust=["planted"])
    assert not RAN.exists()


@pytest.mark.parametrize("name", ["", "../planted", "a b", "jsonargparse", "jsonargparse.typing"])
def test_name_of_no_module_cannot_be_trusted(name: str, stranger: Path) -> None:
    with pytest.raises(InputError, match="cannot be trusted"):
        load_mirror(plant("a.ckpt", mirror=named("planted.Maps")), trust=[name])


def test_module_is_let_in_by_the_option_of_the_report(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_results(Path("runs/a/test"), named("planted.Rule"))
    assert main(["report", "runs/a"]) == 1
    assert "--trust planted" in capsys.readouterr().err
    assert not RAN.exists()
    assert main(["report", "--trust", "planted", "runs/a"]) is None
    assert RAN.exists() and Path("runs/a/report.png").exists()


@pytest.mark.parametrize("how", ["option", "configuration"])
def test_module_is_let_in_by_the_command(
    how: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("a.ckpt", denoiser=as_denoiser(named("planted.Net")))
    write_test(stranger, named("planted.Rule") if how == "configuration" else None)

    assert main(TEST + (["--trust", "planted"] if how == "option" else [])) == 1
    error = capsys.readouterr().err  # built; the weights are of another network
    assert "denoiser: " in error and "whose code is not of this project" not in error


def test_trust_makes_no_other_stage(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = {"accelerator": "cpu", "max_steps": 1, "num_sanity_val_steps": 0}
    stages = {"namm": {"verb": "fit", "trainer": trainer}}
    write("mine.yaml", {"shared": TINY, "stages": stages})
    assert main(["run", "mine.yaml", "--trust", "planted"]) is None
    capsys.readouterr()
    assert main(["run", "mine.yaml"]) is None
    assert "finished" in capsys.readouterr().out
    assert "planted" not in Path("runs/mine/namm/config.yaml").read_text()
    assert_nothing_ran()


def test_recipe_that_names_its_own_file_ends(stranger: Path) -> None:
    plant("a.ckpt", mirror=named("namm.load_mirror", checkpoint="a.ckpt"))
    with pytest.raises(InputError):
        load_mirror("a.ckpt")


def test_module_that_ends_the_process_is_refused(stranger: Path) -> None:
    write("ending.py", "import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match="SystemExit"):
        load_mirror(plant("a.ckpt", mirror=named("ending.Maps")), trust=["ending"])
    write("model.yaml", {"model": named("ending.Maps")})
    assert main(["fit", "-c", "trainer.yaml", "-c", "model.yaml"]) == 1


def test_part_of_another_kind_is_refused(stranger: Path) -> None:
    for recipe in (named("torch.nn.Linear", in_features=1, out_features=1), named("mdm.MLP")):
        with pytest.raises(InputError, match="Mirror"):
            load_mirror(plant("a.ckpt", mirror=recipe))
        with pytest.raises(InputError, match="Denoiser"):
            load_denoiser(plant("a.ckpt", denoiser=recipe))


def test_rules_of_the_parser_are_strict_again_after_a_file(stranger: Path) -> None:
    from jsonargparse._common import parsing_settings

    before = dict(parsing_settings["import_path_verdicts"])
    with pytest.raises(InputError):
        load_mirror(plant("a.ckpt", mirror=named("planted.Maps")))
    assert parsing_settings["import_path_verdicts"] == before and before["os"] is False
    assert parsing_settings["import_paths_enforced"]
    assert torch.nn.__name__ not in before
