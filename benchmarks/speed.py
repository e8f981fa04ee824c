r"""How fast a training step and a solver step are, beside what the machine could do.

Operations are counted by PyTorch's formulas; the floor is their number divided by the measured
rate of large float32 matrix products, on the same threads in the same run. The plain form of a
NAMM step follows the method as it is written: two passes of f, a gradient of the potential by
automatic differentiation, paddings by `torch.nn.functional.pad`, contiguous weights. Its losses
must be ours.

    python -m benchmarks.speed --threads 2
"""

import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import namm.padding
from constraints import Burgers
from inverse import DPS, Pullback, Select
from mdm import DDIM, MDM, DiffusersDenoiser
from namm import (
    ICNN,
    CountFlops,
    IdentityMirror,
    Mirror,
    MirrorMap,
    PatchNet,
    ResNet,
    mirror_losses,
)

from .common.program import launch, options
from .common.tables import columns, join, table
from .search import training_data, unet

AXES = ("circular", "replicate")  # the padding of space and time
SHAPE = (1, 64, 64)


def median(run: Callable[[], Any], repeats: int) -> float:
    r"""Returns the median of the seconds of some runs after a first one."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def rate(dtype: torch.dtype, repeats: int) -> float:
    r"""Returns the operations per second of products of matrices of 2048 rows."""
    a, b = torch.randn(2, 2048, 2048).to(dtype)
    return 2 * 2048**3 / median(lambda: a @ b, repeats)


class PlainForward(nn.Module):
    r"""Creates the map of an `ICNN` whose gradient is left to automatic differentiation."""

    def __init__(self, icnn: ICNN) -> None:
        super().__init__()
        self.icnn = icnn

    def forward(self, x: Tensor) -> Tensor:
        x_in = x if x.requires_grad else x.detach().requires_grad_()
        potential = self.icnn.potential(x_in).sum()
        (slope,) = torch.autograd.grad(potential, x_in, create_graph=True)
        return (1 - self.icnn.strength) * slope + self.icnn.strength * x


def plain_pad(x: Tensor, width: Sequence[int], padding: Sequence[Any]) -> Tensor:
    r"""Pads the axes one after the other by `torch.nn.functional.pad`."""
    (h, w), (mode_h, mode_w) = width, padding
    return F.pad(F.pad(x, (0, 0, h, h), mode=mode_h), (w, w, 0, 0), mode=mode_w)


def plain_loss(mirror: MirrorMap, constraint: Burgers, x: Tensor, noise: Tensor) -> Tensor:
    r"""Returns the loss of a mirror map, term by term as it is written."""
    g = PlainForward(mirror.forward_map)  # type: ignore[arg-type]
    f = mirror.inverse_map
    y = g(x)
    y_noisy = y + noise
    x_clean, x_noisy = f(y), f(y_noisy)
    cycle = (x_clean - x).abs().mean() + (g(x_noisy) - y_noisy).abs().mean()
    with torch.no_grad():
        constraint(x_clean)
    return cycle / 2 + constraint(x_noisy).mean() + 1e-3 * mirror.regulariser(x, y)


def our_loss(mirror: MirrorMap, constraint: Burgers, x: Tensor, noise: Tensor) -> Tensor:
    r"""Returns the same loss as the stage computes it."""
    terms = mirror_losses(mirror, constraint, x, noise)
    cycle = terms["cycle_forward"] + terms["cycle_inverse"]
    return cycle / 2 + terms["constraint"] + 1e-3 * terms["regulariser"]


def trained_maps(bfloat16: bool = False) -> MirrorMap:
    r"""Returns maps of the size that is trained on two cores."""
    return MirrorMap(
        ICNN(1, 8, 1, padding=AXES), PatchNet(1, 4, 64, 6, 16, 2, bfloat16=bfloat16, padding=AXES)
    )


def paper_maps() -> MirrorMap:
    r"""Returns maps of the size of the paper, without dropout, so that losses can be compared."""
    return MirrorMap(
        ICNN(1, 32, 3, padding=AXES), ResNet(1, 64, 6, dropout=0.0, softplus=True, padding=AXES)
    )


class Steps:
    r"""Creates the list of measured steps.

    Arguments:
        repeats: The number of runs of each measurement.
    """

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.rates = {
            str(dtype).removeprefix("torch."): rate(dtype, 2 * repeats)
            for dtype in (torch.float32, torch.bfloat16)
        }
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, run: Callable[[], Any]) -> float:
        r"""Measures, adds a row, and returns the seconds."""
        with CountFlops() as counter:
            run()
        seconds = median(run, self.repeats)
        floor = counter.flops / self.rates["float32"]
        self.rows.append(
            {
                "step": name,
                "GFLOP": counter.flops / 1e9,
                "floor, s": floor,
                "measured, s": seconds,
                "measured / floor": seconds / floor,
            }
        )
        print(self.rows[-1], flush=True)
        return seconds


def maps(steps: Steps, name: str, make: Callable[[], MirrorMap], batch: int) -> dict[str, float]:
    r"""Measures the plain and our step of the same maps, whose losses must agree to 1e-5."""
    torch.manual_seed(0)
    ours = make().train()
    plain = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    constraint = Burgers(dt=0.125)
    x, noise = torch.rand(batch, *SHAPE), 0.1 * torch.randn(batch, *SHAPE)

    def step(loss: Callable[..., Tensor], mirror: MirrorMap) -> float:
        mirror.zero_grad()
        value = loss(mirror, constraint, x, noise)
        value.backward()
        return value.item()

    with patch.object(namm.padding, "pad", plain_pad):
        expected = step(plain_loss, plain)
        before = steps.add(
            f"NAMM, {name}, batch {batch}, plain form", lambda: step(plain_loss, plain)
        )
    difference = abs(step(our_loss, ours) / expected - 1)
    if difference > 1e-5:
        raise RuntimeError(
            f"The losses of the two forms differ by {difference:.1e} of themselves."
        )
    after = steps.add(f"NAMM, {name}, batch {batch}", lambda: step(our_loss, ours))
    return {"times faster": before / after, "difference of the losses": difference}


def denoiser(steps: Steps, name: str, net: DiffusersDenoiser, batch: int) -> float:
    r"""Measures a step of the diffusion model, and returns its seconds."""
    stage = MDM(net).train()
    batch_of = {"x": torch.rand(batch, *SHAPE), "index": torch.arange(batch)}

    def step() -> None:
        stage.zero_grad()
        stage.losses(batch_of, "speed")["loss"].backward()

    return steps.add(f"MDM, {name}, batch {batch}", step)


def solver(steps: Steps, name: str, mirror: Mirror, batch: int, calls: int = 10) -> float:
    r"""Measures DPS, and the calls and products that it cannot do without, and returns the share
    of its time that is spent on anything else."""
    net = unet(2, (64, 64, 64), 2).eval().requires_grad_(False)
    mirror = mirror.eval().requires_grad_(False)
    select = Select(dim=-1, index=8, size=64, std=0.2)
    m = select(torch.rand(batch, *SHAPE))
    identity = isinstance(mirror, IdentityMirror)
    operator = select if identity else Pullback(select, mirror)
    dps = DPS(transition=DDIM(steps=calls))
    seeds = list(range(batch))
    times = torch.linspace(0.99, 0.01, calls)
    y_t = torch.randn(batch, *SHAPE, requires_grad=True)

    def bare() -> None:
        for t in times:
            y_hat = net(y_t, t)
            misfit = (m - select(mirror.inverse(y_hat))).square().sum()
            torch.autograd.grad(misfit, y_t)

    least = steps.add(f"{calls} bare calls and products, {name}, batch {batch}", bare)
    run = steps.add(
        f"{calls} steps of DPS, {name}, batch {batch}", lambda: dps(net, operator, m, SHAPE, seeds)
    )
    return run / least - 1


def guidance(batch: int, repeats: int, calls: int = 10) -> float:
    r"""Returns the time of mirror-DPS that a constraint guides, over the time of mirror-DPS
    without, of runs by turns."""
    net = unet(2, (64, 64, 64), 2).eval().requires_grad_(False)
    select = Select(dim=-1, index=8, size=64, std=0.2)
    m = select(torch.rand(batch, *SHAPE))
    operator = Pullback(select, trained_maps().eval().requires_grad_(False))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats + 1):
        for guided, spent in seconds.items():
            dps = DPS(constraint=Burgers(dt=0.125) if guided else None, transition=DDIM(calls))
            start = time.perf_counter()
            dps(net, operator, m, SHAPE, range(batch))
            spent.append(time.perf_counter() - start)
    return statistics.median(seconds[True][1:]) / statistics.median(seconds[False][1:])


def loading(batch: int, count: int = 100) -> float:
    r"""Returns the seconds in which a batch of fields comes from their file."""
    data = training_data("burgers", batch_size=batch)
    batches = iter(data.train_dataloader())
    next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - start) / count


def main() -> None:
    r"""Measures, and writes a table and the numbers."""
    parser = options(__doc__, "docs/results/speed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    steps = Steps(args.repeats)
    faster = {
        "paper": maps(steps, "sizes of the paper", paper_maps, 16),
        "trained": maps(steps, "trained sizes", trained_maps, 8),
    }
    # the gain of bfloat16 on a machine is not known before a trial
    mirror, constraint = trained_maps(bfloat16=True).train(), Burgers(dt=0.125)
    x, noise = torch.rand(8, *SHAPE), 0.1 * torch.randn(8, *SHAPE)
    steps.add(
        "NAMM, trained sizes, batch 8, bfloat16",
        lambda: our_loss(mirror, constraint, x, noise).backward(),
    )
    denoiser(steps, "sizes of the paper", unet(1, (64, 128, 128, 128), 2, 4), 4)
    seconds = denoiser(steps, "trained sizes", unet(2, (64, 64, 64), 2), 16)
    overhead = {
        "data space": solver(steps, "data space", IdentityMirror(), 8),
        "mirror space": solver(steps, "mirror space", trained_maps(), 8),
    }
    shares = {"NAMM": loading(8) / steps.rows[3]["measured, s"], "MDM": loading(16) / seconds}
    found: dict[str, Any] = {
        "rates": steps.rates,
        "plain form": faster,
        "overhead": overhead,
        "loading": shares,
    }
    found["guided / unguided"] = {"mirror-DPS": guidance(8, args.repeats)}
    facts = [
        *((f"products of matrices in {k}, GFLOP/s", v / 1e9) for k, v in steps.rates.items()),
        *((f"{k} of ours, {size}", v) for size, each in faster.items() for k, v in each.items()),
        *((f"beyond bare calls and products, {k}, %", 100 * v) for k, v in overhead.items()),
        *((f"guided / unguided, {k}", v) for k, v in found["guided / unguided"].items()),
        *((f"loading of a batch, {k}, % of a step", 100 * v) for k, v in shares.items()),
    ]
    command = f"python -m benchmarks.speed --threads {args.threads} --repeats {args.repeats}"
    parts = [f"`{command}`, medians of {args.repeats}.", columns(steps.rows)]
    parts += [table(["quantity", "value"], [[name, f"{v:.3g}"] for name, v in facts])]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(text := join(*parts))
    results = {"command": command, "rows": steps.rows, **found}
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    print(text)


if __name__ == "__main__":
    launch(main)
