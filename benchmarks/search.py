r"""Which networks learn most per minute: maps and denoisers of 64x64 Burgers fields, and maps of
rules that tie distant points.

Each candidate trains for the same number of seconds of processor time on one thread, with a
learning rate that falls on a cosine of that time, and is scored on held-out fields. Smaller
networks take more steps; the question is who is ahead when the time is over.

    python -m benchmarks.search maps --seconds 150
    python -m benchmarks.search denoisers --seconds 150
    python -m benchmarks.search reach --seconds 120

The last asks how far the blocks of the inverse map should see, on the periodic and the brightness
problem. Each candidate is also scored on noise of the same std that is smooth, as the errors of a
diffusion model are: neighbouring points cannot tell it from the field.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from constraints import Constraint
from datamodules import FieldData
from mdm import MDM, DiffusersDenoiser, DPMSolver
from namm import ICNN, NAMM, CountFlops, MirrorMap, PatchNet, ResNet, Stage
from namm.cli.fill import fill
from namm.cli.plan import plan
from namm.mirror import Clamped
from namm.training.checkpoint import build_part

from .common.program import launch, options
from .common.tables import columns, join

# the width and blocks of the convex network, and the arguments of a patch network, if it is one
AXES = ("circular", "replicate")  # the padding of space and time
MAPS: dict[str, tuple[tuple[int, int], tuple[int, ...]]] = {
    "g 8x1, f patch 4, 96x6, detail 24x2": ((8, 1), (4, 96, 6, 24, 2)),
    "g 8x1, f patch 4, 64x6, detail 16x2": ((8, 1), (4, 64, 6, 16, 2)),
    "g 8x1, f patch 4, 128x8, detail 16x1": ((8, 1), (4, 128, 8, 16, 1)),
    "g 8x1, f patch 2, 48x6, detail 16x1": ((8, 1), (2, 48, 6, 16, 1)),
    "g 16x2, f patch 4, 96x6, detail 24x2": ((16, 2), (4, 96, 6, 24, 2)),
    "g 8x1, f ResNet 24x6": ((8, 1), ()),
}


def maps_of(name: str) -> MirrorMap:
    r"""Returns the maps of a candidate."""
    forward, inverse = MAPS[name]
    g = ICNN(1, *forward, padding=AXES)
    f = (
        PatchNet(1, *inverse, padding=AXES)
        if inverse
        else ResNet(1, 24, 6, dropout=0.0, skip=False, padding=AXES)
    )
    return MirrorMap(g, f)


def unet(patch: int, widths: Sequence[int], attention: int, layers: int = 1) -> DiffusersDenoiser:
    r"""Returns a denoiser on patches, with attention at one level."""
    from diffusers import UNet2DModel

    levels = ["Attn" if k == attention else "" for k in range(len(widths))]
    net = UNet2DModel(
        in_channels=patch**2,
        out_channels=patch**2,
        layers_per_block=layers,
        block_out_channels=widths,
        down_block_types=[f"{level}DownBlock2D" for level in levels],
        up_block_types=[f"{level}UpBlock2D" for level in levels[::-1]],
        norm_num_groups=8,
    )
    return DiffusersDenoiser(net, patch=patch, padding=AXES)


# the patch, the widths, the level with attention, and the layers of a level
DENOISERS: dict[str, tuple[int, list[int], int, int]] = {
    "patch 2, 32-64-128": (2, [32, 64, 128], 2, 1),
    "patch 2, 64-128-128": (2, [64, 128, 128], 2, 1),
    "patch 2, 48-96-128, 2 layers": (2, [48, 96, 128], 2, 2),
    "patch 4, 96-192-192": (4, [96, 192, 192], 1, 1),
    "patch 4, 128-192": (4, [128, 192], 1, 2),
    "patch 2, 64-64-96": (2, [64, 64, 96], 2, 1),
    "patch 2, 64-64-64": (2, [64, 64, 64], 2, 1),
    "patch 1, 32-64-64-64": (1, [32, 64, 64, 64], 3, 1),
    "patch 1, 32-64-128-128": (1, [32, 64, 128, 128], 3, 1),
}
REACH = ("periodic", "brightness")
DILATIONS = ((1,), (1, 2, 4, 8))


def configured(problem: str) -> dict[str, Any]:
    r"""Returns the configuration of the maps that `namm run --scale cpu` trains."""
    stages = {stage.name: stage for stage in plan(Path("configs", problem), "cpu")}
    return stages["namm"].config


def training_data(problem: str, **options: Any) -> FieldData:
    r"""Returns the data of a problem, simulated where they are missing."""
    recipe = configured(problem)["data"]
    recipe = {**recipe, "init_args": recipe["init_args"] | options}
    data: FieldData = build_part(recipe, FieldData)
    data.prepare_data()
    data.setup("fit")
    return data


def batches(data: FieldData, size: int) -> Any:
    r"""Yields training batches for ever."""
    epoch = 0
    fields = data.fields["train"]
    while True:
        order = torch.randperm(len(fields), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(size):
            yield {"x": torch.stack([fields[int(i)]["x"] for i in part]), "index": part}
        epoch += 1


def train(stage: Stage, data: FieldData, size: int, seconds: float, lr: float) -> dict[str, Any]:
    r"""Trains on batches of a size for some seconds of processor time of one thread."""
    optimiser = torch.optim.Adam(
        [p for p in stage.parameters() if p.requires_grad], lr, (stage.optimiser.beta1, 0.999)
    )
    stage.train()
    steps, flops, start = 0, 0, time.process_time()
    for batch in batches(data, size):
        done = (time.process_time() - start) / seconds
        if done >= 1:
            break
        rise = min(1.0, (steps + 1) / 20)
        optimiser.param_groups[0]["lr"] = lr * rise * (0.5 + 0.5 * math.cos(math.pi * done))
        counter = CountFlops()
        with counter:
            optimiser.zero_grad()
            stage.losses(batch, "train", steps)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimiser.step()
        for module in stage.modules():
            if isinstance(module, Clamped):
                module.clamp_()
        flops += counter.flops
        steps += 1
    parameters = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    return {"parameters": parameters, "steps": steps, "TFLOP": flops / 1e12}


@torch.no_grad()
def score_maps(stage: NAMM, x: Tensor, n: Tensor) -> dict[str, float]:
    r"""Returns the distances of f at the two ends of the noise, and the cycle errors."""
    stage.eval()
    y = stage.mirror(x)
    x_clean, x_noisy = (stage.mirror.inverse(y + s * n) for s in (0.0, stage.sigma_max))
    return {
        "distance, s = 0": stage.constraint(x_clean).mean().item(),
        "distance, s = 0.1": stage.constraint(x_noisy).mean().item(),
        "cycle": (x_clean - x).abs().mean().item(),
        "error, s = 0.1": (x_noisy - x).abs().mean().item(),
    }


def score_reach(stage: NAMM, x: Tensor, n: Tensor) -> dict[str, float]:
    r"""Returns what `score_maps` does, and the distance of f at the largest smooth noise."""
    waves = [torch.fft.fftfreq(side) * side for side in n.shape[-2:]]
    low = torch.cartesian_prod(*waves).norm(dim=-1).reshape(n.shape[-2:]) <= 4
    smooth = torch.fft.ifft2(torch.fft.fft2(n) * low).real
    scores = score_maps(stage, x, n)
    with torch.no_grad():
        y = stage.mirror(x) + stage.sigma_max * smooth / smooth.std()
        scores["distance, smooth"] = stage.constraint(stage.mirror.inverse(y)).mean().item()
    return scores


@torch.no_grad()
def score_denoiser(stage: MDM, x: Tensor, constraint: Constraint) -> dict[str, float]:
    r"""Returns the loss on held-out fields at 8 levels each, and the distance of 64 samples."""
    stage.eval()
    batch = {"x": x, "index": torch.arange(len(x))}
    loss = sum(stage.losses(batch, "val", k)["loss"].item() for k in range(8)) / 8
    samples = stage.sampler(stage.denoiser, (1, 64, 64), list(range(64))).y
    return {"loss": loss, "distance": constraint(samples).mean().item()}


def candidates(search: str) -> Iterator[tuple[str, str]]:
    r"""Yields the problem and the name of each candidate."""
    if search == "reach":
        for problem in REACH:
            for dilations in DILATIONS:
                yield problem, f"{problem}, dilations {'-'.join(map(str, dilations))}"
    else:
        for name in MAPS if search == "maps" else DENOISERS:
            yield "burgers", name


def learn(search: str, name: str, data: FieldData, seconds: float, n: Tensor) -> dict[str, Any]:
    r"""Returns the facts and the scores of a candidate after training. The noise n is standard
    normal, for as many held-out fields, `(B, 1, 64, 64)`."""
    constraint, fields = data.constraint, data.fields["val"]
    x = torch.stack([fields[i]["x"] for i in range(len(n))])
    if search == "denoisers":
        mdm = MDM(unet(*DENOISERS[name]), sampler=DPMSolver(steps=25), log_normal=(-0.5, 1.2))
        mdm.denoiser.calibrate(x)
        facts = train(mdm, data, 16, seconds, 1e-3)
        return {**facts, **score_denoiser(mdm, x, constraint)}
    if search == "maps":
        maps = NAMM(maps_of(name), constraint, constraint_weight=10.0)
        return {**train(maps, data, 8, seconds, 1e-3), **score_maps(maps, x, n)}
    problem, _, last = name.partition(", dilations ")
    model = configured(problem)["model"]["init_args"]
    inverse = model["mirror"]["init_args"]["inverse_map"]["init_args"]
    inverse["dilations"] = [int(d) for d in last.split("-")]
    fill(model, lambda: data)
    mirror = build_part(model["mirror"])
    maps = NAMM(mirror, constraint, constraint_weight=model["constraint_weight"])
    return {**train(maps, data, 8, seconds, 1e-3), **score_reach(maps, x, n)}


def main() -> None:
    r"""Trains the candidates, and writes the table after each."""
    parser = options(__doc__, "docs/results/search")
    parser.add_argument("search", choices=("maps", "denoisers", "reach"))
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="candidates whose name has this in it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    n = torch.randn((128, 1, 64, 64), generator=torch.Generator().manual_seed(args.seed))
    command = f"python -m benchmarks.search {args.search} --seconds {args.seconds:g}"
    rows = []
    loaded: dict[str, FieldData] = {}
    for problem, name in candidates(args.search):
        if args.only and args.only not in name:
            continue
        if problem not in loaded:
            loaded = {problem: training_data(problem)}
        torch.manual_seed(args.seed)
        rows.append(
            {"network": name, **learn(args.search, name, loaded[problem], args.seconds, n)}
        )
        print(rows[-1], flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        note = f"`{command}`, seed {args.seed}, one thread; 128 held-out fields."
        (args.out / f"{args.search}.md").write_text(join(note, columns(rows)))
        results = {"command": command, "seed": args.seed, "rows": rows}
        (args.out / f"{args.search}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    launch(main)
