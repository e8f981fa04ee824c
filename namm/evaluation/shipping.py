r"""Weights that others load: a folder for each problem, with a file of weights for each stage, and
a card that says where the weights are from.

    namm ship runs/burgers pretrained/burgers
"""

__all__ = ["ship"]

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from constraints import InputError

from ..training.checkpoint import read_checkpoint
from ..training.folder import check_absent, locked
from ..training.io import LAST, write_together
from ..training.stages import STAGES
from ..training.weights import ROOT, is_record, pack
from .results import code_span, markdown
from .training_costs import cost_cells, facts, training

CARD = "README.md"
BEGIN, END = "<!-- the card of `namm ship` -->", "<!-- the end of the card -->"
MARKED = re.compile(f"{BEGIN}(?:(?!{BEGIN}).)*?{END}", re.DOTALL)
WHAT = {
    "namm": "the maps g and f",
    "mdm": "the diffusion model in mirror space",
    "finetune": "the maps, with f fine-tuned on samples of that model",
    "dm": "the plain diffusion model in data space",
}


def ship(
    runs: Path,
    folder: Path,
    half: bool = False,
    records: Sequence[str] = (),
    replace: bool = False,
) -> None:
    r"""Writes the weights of the trained stages of a run, and the card. All files or none: what
    does not fit is refused before anything is written. Stages that the folder holds from another
    run stay, and stay on the card.

    The card is the part of `README.md` between two marks. Text of an author before and after the
    marks stays. A file without marks gets the card at its end.

    Arguments:
        runs: The folder of the runs of a problem, with the stages namm, mdm, finetune and dm, or
            some of them.
        folder: The folder to write.
        half: Whether to round kernels and matrices to float16.
        records: The stages of which only the record of the training is written: what later stages
            cost counts them in, and few use maps that have been fine-tuned since.
        replace: Whether to replace other weights of the same stages.

    Raises:
        InputError: If no stage has a checkpoint, or if the folder holds other weights of a stage.
    """
    found = [stage for stage in STAGES if (runs / stage / LAST).is_file()]
    if not found:
        raise InputError(
            f"{runs} has no {LAST} of {', '.join(STAGES)}: give the runs of a problem."
        )
    trained = training(runs)
    inside = folder.resolve().is_relative_to(ROOT)
    home = folder.resolve().relative_to(ROOT) if inside else folder
    files = {}
    for stage in found:
        state = read_checkpoint(runs / stage / LAST)
        state["hyper_parameters"] = _moved(state.get("hyper_parameters", {}), home)
        seconds = trained.get(stage, {"seconds": 0.0})["seconds"]
        files[f"{stage}.safetensors"] = pack(state, half, record=stage in records, seconds=seconds)
    with locked(folder), TemporaryDirectory() as temporary:
        there = {name: folder / name for name in files if (folder / name).exists()}
        check_absent([f for name, f in there.items() if f.read_bytes() != files[name]], replace)
        weights = {s: f for s in STAGES if (f := folder / f"{s}.safetensors").is_file()}
        for name, content in files.items():
            weights[Path(name).stem] = file = Path(temporary, name)
            file.write_bytes(content)
        text = card(runs, home, half, {s: weights[s] for s in STAGES if s in weights})
        files[CARD] = _marked(folder / CARD, text).encode("utf-8", "surrogateescape")
        write_together(folder, files)
    print(f"{', '.join(files)} in {folder}")


def _marked(file: Path, card: str) -> str:
    r"""Returns the text of a file with a card in the place of the card between its marks, or at
    its end."""
    text = file.read_bytes().decode("utf-8", "surrogateescape") if file.exists() else ""
    card = f"{BEGIN}\n{card}{END}"
    changed, found = MARKED.subn(lambda match: card, text, count=1)
    return changed if found else f"{text}\n{card}\n" if text else f"{card}\n"


def card(runs: Path, folder: Path, half: bool, files: dict[str, Path]) -> str:
    r"""Returns the card.

    Arguments:
        runs: The folder of the runs, with a checkpoint of one of the stages or more.
        folder: The folder of the files, as a reader of the repository names it.
        half: Whether the weights were rounded.
        files: The file of each stage that is shipped.
    """
    first = next(runs / stage for stage in files if (runs / stage / LAST).is_file())
    about = read_checkpoint(first / LAST).get("provenance", {})
    constraint = dict(about.get("constraint", {}))
    kind = constraint.pop("class", "a constraint")
    config = first / "config.yaml"
    data = yaml.safe_load(config.read_text("utf-8")).get("data", {}) if config.exists() else {}
    made = {k: v for k, v in data.get("init_args", {}).items() if k in ("sizes", "seed")}
    weights = {s: f for s, f in files.items() if not is_record(f)}
    records = [stage for stage in files if stage not in weights]
    head = ["stage", "what", "steps", "counted TFLOP", "minutes", "MiB"]
    rows: list[list[Any]] = [head, ["---"] * len(head)]
    for stage, file in files.items():
        state = read_checkpoint(file)
        spent = {"steps": state["global_step"], **facts(state), "seconds": state["seconds"]}
        size = f"{file.stat().st_size / 2**20:.1f}"
        what = WHAT[stage] + (", the record alone" if stage in records else "")
        rows.append([stage, what, *cost_cells(spent), size])
    sums = [f"    {sha256(f.read_bytes()).hexdigest()}  {f.name}" for f in files.values()]
    # a run has the name of a problem and its scale, if any
    scale = runs.name.removeprefix(folder.name).removeprefix("-")
    again = f"configs/{folder.name}.yaml{f' --scale {scale}' if scale else ''} --pretrained"
    source = runs.name if runs.is_absolute() else runs
    parts = [
        f"# Trained models of {folder.name}",
        "The averaged weights of each stage, in "
        + ("float16 but for vectors and the map g" if half else "float32")
        + f", with the recipes of their networks. Written by `namm ship {source} {folder}"
        f"{' --half' if half else ''}{' --record ' * bool(records) + ' '.join(records)}`.",
        f"**Data.** Fields of shape {tuple(about.get('shape', ()))} that satisfy "
        f"{code_span(kind)} with {code_span(json.dumps(constraint))}, of "
        f"{code_span(data.get('class_path', 'a data module'))} with "
        f"{code_span(json.dumps(made))}; the hash of the fields is "
        f"{code_span(about.get('data', 'not known'))}, which "
        "another processor may not reproduce to the bit. A stage with another constraint or on "
        "fields of another shape is refused.",
        "**Training.**",
        markdown(rows),
        *_generation(runs),
        " ".join(["**Use.**", *_uses(weights, folder, again)]),
        "**Hashes,** for `sha256sum --check`:",
        "\n".join(sums),
        "**Licence.** Apache-2.0, as the code of the project.",
    ]
    return "\n\n".join(parts) + "\n"


def _uses(weights: dict[str, Path], folder: Path, again: str) -> list[str]:
    r"""Returns what loads the files, in sentences: only what there are files for."""
    uses = []
    if "mdm" in weights and weights.keys() & {"namm", "finetune"}:
        uses.append(
            f'`namm.load("{folder.name}")` returns the maps, the diffusion models and the '
            "constraint."
        )
    if {"mdm", "finetune", "dm"} <= weights.keys():
        uses.append(
            f"`namm run {again}` runs the tests"
            + ("." if "namm" in weights else ", but for the maps before fine-tuning.")
        )
    if weights:
        stage = next(s for s in ("finetune", "namm", "mdm", "dm") if s in weights)
        part = "mirror" if stage in ("finetune", "namm") else "denoiser"
        uses.append(
            "Each option that takes a checkpoint takes these files, such as "
            f"`--model.init_args.{part}.init_args.checkpoint={folder / weights[stage].name}`."
        )
    return uses


def _generation(runs: Path) -> list[str]:
    r"""Returns the table of the unconditional samples in the report of a run, if there is one."""
    report = runs / "report.md"
    parts = report.read_text("utf-8").split("\n\n") if report.exists() else []
    found = [
        part.strip().replace("<", "&lt;") for part in parts if part.startswith("| generation |")
    ]
    return ["**Samples.** As scored by the run that trained them:", *found] if found else []


def _moved(config: Any, folder: Path) -> Any:
    r"""Returns a configuration with the checkpoints of the run replaced by their shipped files."""
    if isinstance(config, dict):
        return {key: _moved(value, folder) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_moved(value, folder) for value in config]
    if isinstance(config, str) and Path(config).parts[-2:] == LAST.parts:
        return str(folder / f"{Path(config).parent.parent.name}.safetensors")
    return config
