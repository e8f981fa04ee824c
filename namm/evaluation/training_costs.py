r"""The cost of training: steps, counted operations and seconds of each stage, and of all stages
behind a result."""

__all__ = ["compute", "cost_cells", "facts", "shipped", "training"]

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..training.checkpoint import read_checkpoint
from ..training.records import read_record
from ..training.stages import STAGES
from ..training.weights import holds_weights

Results = dict[Path, dict[str, Any]]


def training(folder: Path) -> dict[str, dict[str, Any]]:
    r"""Returns, for each stage that trained, in the order in which they ended: steps, counted
    operations, seconds, the checkpoints it was built from, the loss by step, and the distance of
    its validation samples by the operations spent so far on it and on what it was built from.

    Arguments:
        folder: The folder of the runs.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[tuple[int, float]]] = {}
    files = folder.glob("*/checkpoints/last.ckpt")
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        stage = file.parent.parent
        state = read_checkpoint(file)
        if not (counted := facts(state)):
            continue
        events = EventAccumulator(str(stage), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        scalars = {tag: events.Scalars(tag) for tag in tags}
        finished = stage / "finished.json"
        times = [e.wall_time for e in scalars.get("flops", [])] or [0.0]
        trained[stage.name] = {
            **counted,
            "seconds": read_record(finished, seconds=float)["seconds"]
            if finished.exists()
            else times[-1] - times[0],
            "loss": {
                tag: [(e.step, e.value) for e in scalars[tag]]
                for tag in ("train/loss", "val/loss")
                if tag in scalars
            },
        }
        samples[stage.name] = [(e.step + 1, e.value) for e in scalars.get("val/samples", [])]
    for stage_name, found in trained.items():
        behind = _lineage([stage_name], trained) - {stage_name}
        before = sum(trained[name]["flops"] for name in behind)
        each = found["flops"] // found["steps"]
        found["distance_by_flops"] = [
            (before + each * steps, value) for steps, value in samples[stage_name]
        ]
    return trained


def shipped(stages: Results) -> dict[str, dict[str, Any]]:
    r"""Returns the facts of `training`, but for the course of it, of those stages whose shipped
    weights the results name, and of the stages that these were built from.

    Arguments:
        stages: The results by folder.
    """
    trained: dict[str, dict[str, Any]] = {}
    named = [path for results in stages.values() for path in _paths(results["config"])]
    while named:
        path = named.pop()
        if _stage(path) in trained or not holds_weights(path):
            continue
        state = read_checkpoint(path)
        if counted := facts(state):
            course: dict[str, Any] = {"loss": {}, "distance_by_flops": []}
            trained[_stage(path)] = {**counted, "seconds": state["seconds"], **course}
            named += _paths(state["hyper_parameters"])
    return dict(sorted(trained.items(), key=lambda item: (*STAGES, item[0]).index(item[0])))


def facts(state: dict[str, Any]) -> dict[str, Any]:
    r"""Returns what a checkpoint or a file of shipped weights says of its training: steps, counted
    operations, the stages it was built from, and whether it fine-tuned maps; nothing if it counted
    no operations.

    Arguments:
        state: The checkpoint, from `read_checkpoint`.
    """
    counts = [c for c in state["callbacks"].values() if {"total", "per_step"} <= {*c}]
    if not counts:
        return {}
    return {
        "steps": state["global_step"],
        "flops": counts[0]["total"],
        "from": sorted({_stage(path) for path in _paths(state["hyper_parameters"])}),
        "finetuned": bool(state["hyper_parameters"].get("freeze_forward")),
    }


def compute(results: dict[str, Any], trained: dict[str, dict[str, Any]]) -> float:
    r"""Returns the counted operations of all training behind the results of a test stage.

    Arguments:
        results: The results, whose configuration names checkpoints.
        trained: The facts of a training, from `training`.
    """
    names = [_stage(path) for path in _paths(results["config"])]
    return float(sum(trained[name]["flops"] for name in _lineage(names, trained)))


def cost_cells(found: dict[str, Any]) -> list[str]:
    r"""Returns what a training cost, as cells of a table: steps, counted TFLOP, and minutes.

    Arguments:
        found: Its steps, its counted operations if any, and its seconds.
    """
    tera, minutes = found.get("flops", 0) / 1e12, found["seconds"] / 60
    return [str(found["steps"]), f"{tera:.4g}", f"{minutes:.1f}"]


def _lineage(names: Iterable[str], trained: dict[str, dict[str, Any]]) -> set[str]:
    found: set[str] = set()
    for name in names:
        if name in trained and name not in found:
            found |= {name} | _lineage(_behind(name, trained), trained)
    return found


def _behind(name: str, trained: dict[str, dict[str, Any]]) -> list[str]:
    r"""Returns the stages that a stage was built from: fine-tuned maps from those before them, and
    from the diffusion model in their mirror space, whose samples they were tuned on."""
    found: list[str] = trained[name]["from"]
    if not trained[name]["finetuned"]:
        return found
    others = (k for k, other in trained.items() if not other["finetuned"])
    return [*found, *(k for k in others if {*found} & {*trained[k]["from"]})]


def _paths(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _paths(value)
    elif isinstance(config, str) and (config.endswith(".ckpt") or holds_weights(config)):
        yield config


def _stage(path: str) -> str:
    file = Path(path)
    return file.stem if file.suffix == ".safetensors" else file.parent.parent.name
