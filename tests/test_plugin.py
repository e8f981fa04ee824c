"""Constraints from other packages: the example, from its wheel to its test, and broken ones."""

import ast
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from hatchling.build import build_wheel

from constraints import noise
from namm.cli import plugins
from namm.cli.main import main
from tests.commands import TRAINER, checkpoint, edited, write

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plugin"


TINY = {
    "data": [
        "--data.sizes={train: 8, val: 4, test: 8}",
        "--data.points=16",
        "--data.frames=16",
        "--data.batch_size=4",
    ],
    "namm": [
        "--model.mirror.inverse_map={class_path: PatchNet, init_args: {width: 8, blocks: 1}}"
    ],
    "mdm": [
        "--model.denoiser.net.layers_per_block=1",
        "--model.denoiser.net.block_out_channels=[8, 8]",
        "--model.val_samples=2",
    ],
    "generation": ["--model.samples=4", "--model.sampler.init_args.steps=2"],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as an installer would leave it, in a folder of its own."""

    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    before = os.getcwd()
    os.chdir(EXAMPLE)
    try:
        wheel = build_wheel(str(dist))
    finally:
        os.chdir(before)
    with ZipFile(dist / wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder where packages are found, beside a working directory."""

    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    plugins.complain.cache_clear()
    before = {*sys.modules}
    yield site
    stale = [
        name
        for name in {*sys.modules} - before
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path))
    ]
    for name in stale:
        del sys.modules[name]
    if stale:
        gc.collect()  # a class that nobody refers to any more is no subclass of its base


@pytest.fixture
def plugin(site: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example among the packages, and the configuration of a tiny trainer."""

    monkeypatch.setattr(sys, "path", [*sys.path, str(package)])
    write("trainer.yaml", edited(TRAINER, "trainer.logger.init_args", {}))
    return package


def install(site: Path, package: str, name: str, value: str, source: str) -> None:
    """Leaves in a folder what an installer would, of a package of one module."""

    module = value.split(":")[0]
    (site / f"{module}.py").write_text(source)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[namm.constraints]\n{name} = {value}\n")


def good(name: str) -> str:
    return (
        "from constraints import Constraint\n\n"
        f"class {name}(Constraint):\n"
        "    def residual(self, x):\n"
        "        return x.flatten(1).mean(dim=1, keepdim=True)\n"
    )


CHECK = ["check", "Burgers", "--shape=[1,6,4]", "--fields=2"]  # which needs no plug-in


# the example
def test_constraint_of_the_example_is_short() -> None:
    source = (EXAMPLE / "conserved_energy" / "constraint.py").read_text("utf-8")
    lines = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", [])
        for child in body if isinstance(body, list) else []:
            text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.stmt) and not text:
                lines |= {child.lineno, child.end_lineno}

    assert 0 < len(lines) <= 20


def test_example_goes_from_its_check_to_its_test(
    plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(verb: str, name: str) -> int | None:
        configs = ["-c", f"{EXAMPLE}/waves.yaml::{name}", "-c", "trainer.yaml"]
        steps = (
            [] if verb == "test" else ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
        )
        return main([verb, *configs, *TINY["data"], *TINY[name], *steps])

    assert run("fit", "namm") is None
    assert main(["check", "ConservedEnergy", "--data=data/waves.h5"]) is None
    assert main(["check", f"{EXAMPLE}/waves.yaml", "--data=data/waves.h5"]) is None
    assert "ConservedEnergy passes." in capsys.readouterr().out
    options = ["--constraint.time=-2", "--data=data/waves.h5"]  # along space
    assert main(["check", "ConservedEnergy", *options]) == 1
    assert "ConservedEnergy fails: zero on data." in capsys.readouterr().out
    assert run("fit", "mdm") is None
    assert run("test", "generation") is None

    provenance = checkpoint("namm", "runs/waves")["provenance"]
    assert provenance["constraint"]["class"] == "ConservedEnergy"
    assert Path("runs/waves/generation/results.json").exists()


def test_energy_is_that_of_the_modes(plugin: Path) -> None:
    from conserved_energy import ConservedEnergy, WaveData

    data = WaveData(ConservedEnergy(), points=12, frames=9, file="none.h5", sizes={})
    x = data.simulate(5, seed=3, dtype=torch.float64)
    keys = [(3, "field", i, 0) for i in range(5)]
    size = sum(
        noise([(*key, "mode", k) for key in keys], (2,)).double().square().sum(dim=1)
        for k in range(1, 5)
    )

    energy = x.square().mean(dim=2)[:, 0]
    torch.testing.assert_close(energy, (size / 8)[:, None].expand_as(energy), rtol=1e-12, atol=0)
    assert data.constraint(x).max() < 1e-14 < 1e-3 < ConservedEnergy(-2)(x).min()
    assert torch.equal(torch.cat([data.draw([key]) for key in keys]), data.draw(keys))


def test_example_is_listed(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help=namm.NAMM"])

    assert "conserved_energy.ConservedEnergy" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["ConservdEnergy", "conserved_energy.ConservdEnergy"])
def test_misspelt_example_is_suggested(
    name: str, plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", name, "--shape=[1,4,4]"]) == 2
    assert "did you mean: conserved_energy.ConservedEnergy?" in capsys.readouterr().err


# broken ones
BROKEN = {
    # name: (the entry point, the module, what is said)
    "import": ("broken:Tilted", "import nowhere\n", "No module named 'nowhere'"),
    "syntax": ("broken:Tilted", "class Tilted(:\n", "invalid syntax"),
    "exit": ("broken:Tilted", "raise RuntimeError('no licence')\n", "no licence"),
    "no class": ("broken:Tilted", "tilted = 3\n", "has no attribute 'Tilted'"),
    "no module": ("elsewhere.broken:Tilted", "", "No module named 'elsewhere"),
    "not a class": ("broken:tilted", "tilted = 3\n", "broken:tilted is not a Constraint"),
    "not a constraint": ("broken:Tilted", "class Tilted: pass\n", "is not a Constraint"),
    "whole module": ("broken", good("Tilted"), "broken is not a Constraint"),
    "name of ours": ("broken:Burgers", good("Burgers"), "namm itself has a constraint"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_is_named_and_left_out(
    name: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, source, reason = BROKEN[name]
    install(site, "leaning-tower", "tilt", value, source)

    assert main(CHECK) is None
    error = capsys.readouterr().err
    assert error.startswith(f"namm: the plug-in 'tilt' ({value}) of the package 'leaning-tower'")
    assert reason in error and error.count("\n") == 1
    # said once in a process, which may run many stages
    assert main(CHECK) is None
    assert capsys.readouterr().err == ""


def test_command_that_needs_a_broken_plugin_fails(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "leaning-tower", "tilt", "broken:Tilted", "import nowhere\n")

    assert main(["check", "Tilted", "--shape=[1,4,4]"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "the plug-in 'tilt'" in first and "No module named 'nowhere'" in first
    assert second == "namm: error: constraint: there is no class 'Tilted'."


def test_of_two_plugins_of_one_name_the_second_is_left_out(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "abacus", "poise", "first:Poise", good("Poise"))
    install(site, "balance", "poise", "second:Poise", good("Poise"))

    assert main(["check", "Poise", "--shape=[1,4,4]"]) is None
    streams = capsys.readouterr()
    assert streams.out.startswith("first.Poise on ")
    assert "(second:Poise) of the package 'balance'" in streams.err
    assert "abacus has a constraint of the name Poise already" in streams.err
    # by its path it is still found
    assert main(["check", "second.Poise", "--shape=[1,4,4]"]) is None
    assert capsys.readouterr().out.startswith("second.Poise on ")
    # and from then on the name alone means two classes
    assert main(["check", "Poise", "--shape=[1,4,4]"]) == 2
    assert "first.Poise and of second.Poise: give a path" in capsys.readouterr().err


def test_traceback_of_a_broken_plugin_on_demand(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "leaning-tower", "tilt", "broken:Tilted", "import nowhere\n")
    monkeypatch.setenv("NAMM_TRACEBACK", "1")

    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        main(CHECK)
