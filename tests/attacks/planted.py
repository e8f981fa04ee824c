"""Files of a stranger, and the code that they try to run: each leaves the file `RAN` behind."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from constraints import hash_content
from namm.training.io import AtomicCheckpointIO
from namm.training.weights import SCHEMA
from tests.commands import PROBLEM, TRAINER, write

RAN = Path("RAN")
MODULE = f"""
from pathlib import Path
Path({str(RAN)!r}).write_text("the code of a stranger")
from constraints import Constraint
from mdm import DiffusersDenoiser
from namm import IdentityMirror
from torch import nn

class Net(nn.Identity): pass
class Maps(IdentityMirror): pass
class Prior(DiffusersDenoiser): pass
class Rule(Constraint):
    def residual(self, x):
        return x.flatten(1)
def make() -> nn.Module:
    return nn.Identity()
"""
BLOCK = f"__import__('pathlib').Path({str(RAN)!r}).write_text('ran')\n"
TOUCH = f"touch {RAN}"


# the options of a diffusion model that needs no file
PRIOR = ["--model=mdm.MDM", "--model.denoiser=mdm.DiffusersDenoiser"]
PRIOR += [
    "--model.denoiser.net={class_path: mdm.MLP, init_args: {channels: 1, width: 8, layers: 1}}"
]


class Pickled:
    """A value whose unpickling runs a command."""

    def __reduce__(self) -> Any:
        return os.system, (TOUCH,)


def named(path: str, /, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


# recipes that name what no file may name, each to be tried in the place of a network
NETWORKS: dict[str, Any] = {
    "a module beside": named("planted.Net"),
    "a module beside, as text": "planted.Net",
    "a module in a package": named("package.planted.Net"),
    "a package": named("package.Net"),
    "a function beside": named("planted.make"),
    "a function of torch that runs text": named(
        "torch.fx.graph_module.reduce_graph_module",
        body={"_code": "pass"},
        import_block=BLOCK,
    ),
    "a shell": named("os.system", command=TOUCH),
    "a shell under another name": named("namm.training.io.os.system", command=TOUCH),
    "a process": named("subprocess.Popen", args=["touch", str(RAN)]),
    "an evaluation": named("builtins.eval", source=BLOCK),
    "a script": named("runpy.run_path", path_name="planted.py"),
    "an import": named("importlib.import_module", name="planted"),
    "a call": named("functools.partial", func="planted.make"),
    "a pickle": named("torch.load", f="pickled.pt", weights_only=False),
    "a hub": named("torch.hub.load", repo_or_dir=".", model="planted", source="local"),
    "a library": named("torch.ops.load_library", path="planted.so"),
    "an extension": named("torch.utils.cpp_extension.load", name="a", sources=["planted.cpp"]),
    "a class method of diffusers": named(
        "diffusers.UNet2DModel.from_pretrained", pretrained_model_name_or_path="."
    ),
    "a function of torch.nn": named("torch.nn.utils.parametrizations.weight_norm"),
    "a command": named("namm.cli.lightning.CLI"),
    "a command of Lightning": named("lightning.pytorch.cli.LightningCLI"),
    "a class of another package": named("lightning.pytorch.demos.Transformer"),
    "a module in an argument": named(
        "torch.nn.Sequential", **{"dict_kwargs": {}}, a=named("planted.Net")
    ),
    "a module in further arguments": {
        "class_path": "torch.nn.Identity",
        "dict_kwargs": {"net": named("planted.Net")},
    },
    "a function in an argument": named(
        "torch.nn.TripletMarginWithDistanceLoss", distance_function="planted.make"
    ),
    "a function of torch in an argument": named(
        "torch.nn.TripletMarginWithDistanceLoss", distance_function="torch.nn.functional.relu"
    ),
    "a module in a list": named("constraints.Sum", terms=[named("planted.Rule")]),
    "a module that asks for trust": named(
        "namm.load_mirror", checkpoint="inner.ckpt", trust=["planted"]
    ),
    "a module in another file": named("mdm.load_denoiser", checkpoint="inner.ckpt"),
    "a file of settings": "settings.yaml",
}


def plant(path: str | Path, **recipes: Any) -> str:
    """Writes a whole file of weights, a checkpoint by its suffix, with recipes of a stranger."""

    about = {
        "pytorch-lightning_version": "2.6.6",
        "global_step": 1,
        "hyper_parameters": recipes,
        "provenance": {"shape": [1, 8, 8]},
        "callbacks": {},
        "seconds": 1.0,
    }
    weights = {f"{name}.weight": torch.zeros(2) for name in recipes}
    content = {**about, "state_dict": weights}
    if str(path).endswith(".ckpt"):
        AtomicCheckpointIO().save_checkpoint(content, path)
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sealed = {**about, "sha256": hash_content(content)}
        save_file(weights, path, {SCHEMA: json.dumps(sealed)})
    return str(path)


def plant_pickle(path: str | Path) -> str:
    """Writes a checkpoint whose unpickling runs a command."""

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "hyper_parameters": {}, "global_step": Pickled()}, path)
    return str(path)


def row(task: str = "generation", method: str = "dm") -> dict[str, Any]:
    """A row of the results of a stranger."""

    costs = {"n": 4, "seed": 0, "calls": 1.0, "vjps": 0.0, "flops": 1.0, "seconds": 1.0}
    value = {"metric": "distance", "value": 1.0, "ci95": [0.5, 1.5]}
    return {"task": task, "method": method, "protocol": "clean", **value, **costs}


def plant_results(
    folder: Path, constraint: Any = None, note: str = "a note", **names: str
) -> None:
    """Writes the results of a test stage of a stranger."""

    folder.mkdir(parents=True)
    content = {"rows": [row(**names)], "config": {"constraint": constraint}, "notes": [note]}
    (folder / "results.json").write_text(json.dumps(content))
    torch.save({names.get("method", "dm"): torch.rand(4, 1, 8, 8)}, folder / "fields.pt")


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory, from which Python imports, with the modules of a stranger and with the
    configurations of a tiny problem."""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    write("trainer.yaml", TRAINER)
    write("problem.yaml", PROBLEM)
    write("planted.py", MODULE)
    write("package/__init__.py", MODULE)
    write("package/planted.py", MODULE)
    write("settings.yaml", {"class_path": "planted.Net"})
    torch.save(Pickled(), "pickled.pt")
    plant(
        "inner.ckpt",
        mirror=named("planted.Maps"),
        denoiser=named("planted.Prior", net=named("torch.nn.Identity")),
    )
    yield tmp_path
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def assert_nothing_ran() -> None:
    assert not RAN.exists(), "the code of a stranger ran"
    assert not {"planted", "package"} & {*sys.modules}
