r"""The worth of each choice of the method: one is changed at a time, and all is trained again.

    python -m benchmarks.sweep.ablations [configs/burgers.yaml --scale demo] [--seeds 0 1]

trains maps, mirror diffusion model and fine-tuned maps for each change, from two seeds, and scores
the samples before and after fine-tuning. The chain without a change is the one of the same name
that `benchmarks.sweep.compute` trains, and not trained twice.
"""

import json
from collections.abc import Sequence

import torch

from namm.cli.plan import Job, plan

from ..common.program import launch
from .chains import Chain, parse, run_chains, write

STAGES = ("namm", "mdm", "samples", "finetune", "generation/mdm", "generation/mdm_finetuned")
MAPS = ("namm", "finetune")  # the stages that train maps
MODEL = "--model.init_args"
# as small as this network gets: 2.5 times the operations of the convex one of the demo
RESNET = {"class_path": "namm.ResNet", "init_args": {"width": 8, "blocks": 1, "dropout": 0.0}}
NOTE = (
    "`1x` is the configuration as it stands. Each other setting changes one thing: zeros around "
    "every axis of both maps, a residual network as the forward map, the largest noise that the "
    "inverse map is trained on, the weight of the constraint, or the raw weights of all trainings "
    "in place of their averages. Distances and guards are means over the training seeds."
)


def changes(planned: Sequence[Job]) -> dict[str, dict[str, list[str]]]:
    r"""Returns the options that each change adds, by stage. The planned jobs give the
    weights that are multiplied."""
    zeros = [
        f"{MODEL}.mirror.init_args.{part}_map.init_args.padding=[constant,constant]"
        for part in ("forward", "inverse")
    ]
    resnet = [f"{MODEL}.mirror.init_args.forward_map={json.dumps(RESNET)}"]
    found = {
        "zero padding": dict.fromkeys(MAPS, zeros),
        "ResNet forward map": dict.fromkeys(MAPS, resnet),
    }
    for sigma in (0.05, 0.2):
        found[f"sigma_max {sigma:g}"] = {name: [f"{MODEL}.sigma_max={sigma:g}"] for name in MAPS}
    weights = {
        stage.name: stage.config["model"]["init_args"]["constraint_weight"]
        for stage in planned
        if stage.name in MAPS
    }
    for factor in (0.1, 10):
        found[f"constraint_weight x{factor:g}"] = {
            name: [f"{MODEL}.constraint_weight={factor * weight:g}"]
            for name, weight in weights.items()
        }
    # an average that forgets at once
    found["raw weights"] = {name: ["--ema.decay=0"] for name in (*MAPS, "mdm")}
    return found


def chains(seeds: Sequence[int], share: float, planned: Sequence[Job]) -> list[Chain]:
    r"""Returns the chain without a change, and the chains with one, for a share of the configured
    steps."""
    found = [Chain("1x", seed, STAGES, share) for seed in seeds]
    for name, extra in changes(planned).items():
        found += [Chain(name, seed, STAGES, share, extra) for seed in seeds]
    return found


def main() -> None:
    r"""Trains, scores, and writes the table."""
    options = parse(__doc__, "ablations")
    planned = plan(options.problem, options.scale)
    todo = chains(options.seeds, options.steps, planned)
    write(options, todo, run_chains(todo, planned, options.runs), NOTE)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    launch(main)
