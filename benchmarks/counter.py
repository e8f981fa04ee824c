r"""How well does the counter of galaxies count, on its data and off them?

    python -m benchmarks.counter [--counter FILE] [--out docs/results/counter]
    python -m benchmarks.counter --samples FILE.h5 [--maps CKPT] [--n 8]
    python -m benchmarks.counter --export runs/counter/counter/checkpoints/last.ckpt FILE

The first counts in images of 2 to 14 galaxies on 64 x 64 points, clean and spoilt in several ways,
none of which the training has seen; takes one galaxy out of an image, which should change the
count by one; and asks how small a change of an image can do the same without a galaxy. Beside it
stands a count of peaks, which has not been trained. The second counts in a file of samples, in its
datasets `x` or else `y`, and writes `samples.json`. Samples `y` of mirror space are first taken
back to images by the maps; these are trained on the counter, and the peaks say whether they fool
it. The third turns a checkpoint into the file of weights that is shipped.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, maximum_filter
from torch import Tensor

from constraints import Counter, InputError, load_counter, noise, save_counter
from constraints.count import FILE
from datamodules.galaxies import draw_background, draw_catalogue, render
from datamodules.schema import open_fields
from namm import Mirror, load_mirror
from namm.training.counting import calibration
from namm.training.counting import markdown as by_number

from .common.program import launch, options
from .common.tables import join, table

TRAINED = range(4, 13)
NUMBERS = (2, 3, *TRAINED, 14)
SEED = "benchmark"  # training has numbers


def blur(sigma: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma)))


def noisy(std: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x + std * noise([(SEED, "noise", i) for i in range(len(x))], x.shape[1:], x)


def coarse(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "clean": lambda x: x,
    "blurred, 1 px": blur(1.0),
    "blurred, 2 px": blur(2.0),
    "half the contrast": lambda x: 0.5 * x,
    "half the resolution": coarse,
    **{f"noise of std {std:g}": noisy(std) for std in (0.02, 0.05, 0.1, 0.2)},
}


def skies(n: int, images: int, points: int = 64, without: int = 0) -> Tensor:
    r"""Draws images of n galaxies, of which the last few are left out."""
    keys = [(SEED, n, i) for i in range(images)]
    drawn = [
        render(draw_catalogue(k, n, points)[: n - without], draw_background(k, points))
        for k in keys
    ]
    return torch.stack(drawn).float().unsqueeze(1)


@torch.no_grad()
def count(counter: Counter, x: Tensor) -> Tensor:
    r"""Counts in images `(N, 1, H, W)`, a few at a time."""
    return torch.cat([counter(part) for part in x.split(64)])


def peaks(x: Tensor) -> Tensor:
    r"""Counts the maxima, in 5 x 5 pixels, of the slightly blurred image that rise above its
    median by 0.08 and by five times the noise, which is what lies between median and 16 %."""
    smooth = gaussian_filter(x[:, 0].numpy(), (0, 0.7, 0.7))
    lower, median = np.quantile(smooth, (0.16, 0.5), axis=(1, 2))[..., None, None]
    highest = maximum_filter(smooth, (1, 5, 5))
    found = (smooth == highest) & (smooth - median > np.maximum(0.08, 5 * (median - lower)))
    return torch.from_numpy(found.sum(axis=(1, 2))).float()


def fool(counter: Counter, x: Tensor, by: float, steps: int = 20) -> Tensor:
    r"""Moves images along the gradient of their count until it has changed by a number."""
    target = count(counter, x) + by
    for _ in range(steps):
        x = x.detach().requires_grad_()
        c = counter(x)
        (gradient,) = torch.autograd.grad(c.sum(), x)
        size = gradient.square().sum(dim=(1, 2, 3))
        step = ((target - c) / size).reshape(-1, 1, 1, 1) * gradient
        norm = torch.linalg.vector_norm(step, dim=(1, 2, 3), keepdim=True)
        x = x + step * (0.3 / norm).clamp(max=1)  # not further than the gradient holds
    return x.detach()


def measure(counter: Counter, images: int) -> dict[str, Any]:
    r"""Returns all that is measured in simulated images."""
    drawn = {n: skies(n, images) for n in NUMBERS}
    x = torch.cat(list(drawn.values()))
    n = torch.tensor(NUMBERS).repeat_interleave(images)
    inside = torch.isin(n, torch.tensor(TRAINED))
    results: dict[str, Any] = {"images_per_number": images, "counter": {}, "peaks": {}}
    for name, spoil in SPOILT.items():
        spoilt = spoil(x)
        for method, c in (("counter", count(counter, spoilt)), ("peaks", peaks(spoilt))):
            within = calibration(c[inside], n[inside])
            outside = calibration(c[~inside], n[~inside])["by_number"]
            results[method][name] = {**within, "outside": outside}
        print(f"{name}: {results['counter'][name]['accuracy']:.1%}", flush=True)
    eight = skies(8, images, points=128)
    results["8 on 128 x 128"] = {
        "counter": calibration(count(counter, eight), torch.full((images,), 8)),
        "peaks": calibration(peaks(eight), torch.full((images,), 8)),
    }
    full = torch.cat([drawn[k] for k in TRAINED])
    less = torch.cat([skies(k, images, without=1) for k in TRAINED])
    change = count(counter, full) - count(counter, less)
    results["one galaxy less"] = {
        "pairs": len(change),
        "mean": float(change.mean()),
        "std": float(change.std()),
        "within 0.25 of 1": float(((change - 1).abs() < 0.25).float().mean()),
        "within 0.5 of 1": float(((change - 1).abs() < 0.5).float().mean()),
    }
    few = drawn[8][:64]
    size = torch.linalg.vector_norm(drawn[8] - skies(8, images, without=1), dim=(1, 2, 3))
    results["fooled"] = {"images": len(few), "norm of a galaxy": float(size.median())}
    for by in (-1.0, 1.0):
        moved = fool(counter, few, by)
        norm = torch.linalg.vector_norm(moved - few, dim=(1, 2, 3))
        results["fooled"][f"{by:+g}"] = {
            "norm of the change": float(norm.median()),
            "change of the count": float((count(counter, moved) - count(counter, few)).mean()),
            "change of the peaks": float((peaks(moved) - peaks(few)).mean()),
        }
    return results


@torch.no_grad()
def score_samples(
    counter: Counter, file: Path, n: int, mirror: Mirror | None = None
) -> dict[str, Any]:
    r"""Returns how many objects the samples in a file hold, of n that they should, by the counter
    and by peaks. Maps, if given, take mirror samples back to images."""
    results: dict[str, Any] = {}
    with open_fields(file) as content:
        found: list[str] = []
        content.visit(found.append)
        found = [k for k in found if getattr(content[k], "ndim", 0) == 4]  # no coordinates
        named = {key: [k for k in found if k.rpartition("/")[2] == key] for key in ("x", "y")}
        for name in named["y"] if mirror else named["x"] or named["y"]:
            x = torch.from_numpy(np.asarray(content[name], dtype=np.float32))
            if mirror:
                x = torch.cat([mirror.inverse(y) for y in x.split(64)])
            c, p = count(counter, x), peaks(x)
            numbers, images = c.round().unique(return_counts=True)
            results[name] = {
                "counter": calibration(c, torch.full_like(c, n)),
                "peaks": calibration(p, torch.full_like(p, n)),
                "agreement": float((c.round() == p).float().mean()),
                "counts": {f"{k:g}": int(i) for k, i in zip(numbers, images, strict=True)},
            }
    if not results:
        wanted = "y" if mirror else "x or y"
        raise InputError(f"{file} has no dataset {wanted}: give a file of samples.")
    return results


def report(results: dict[str, Any]) -> str:
    r"""Returns the tables."""
    head = ["images", "right", "within 0.25", "mean abs. error", "slope", "intercept"]
    large = results["8 on 128 x 128"]
    pairs = [(name, row, results["peaks"][name]) for name, row in results["counter"].items()]
    rows = []
    for name, row, other in (*pairs, ("clean, 8 on 128 x 128", large["counter"], large["peaks"])):
        cells = [f"{row['accuracy']:.1%}", f"{row['within']['0.25']:.1%}"]
        cells += [f"{row['mean_absolute_error']:.3f}"]
        line = (
            [f"{row['slope']:.3f}", f"{row['intercept']:+.3f}"] if "outside" in row else ["", ""]
        )
        rows.append([name, *cells, *line, f"{other['accuracy']:.1%}"])
    clean = results["counter"]["clean"]
    unseen = [
        [k, f"{row['mean']:.2f}", f"{row['std']:.2f}", f"{row['accuracy']:.1%}"]
        for k, row in clean["outside"].items()
    ]
    pair = [f"{key} {value:.3f}" for key, value in results["one galaxy less"].items()]
    keys = ("norm of the change", "change of the count", "change of the peaks")
    fooled = results["fooled"]
    return join(
        f"{results['images_per_number']} images for each number.",
        table([*head, "peaks right"], rows),
        "Clean images of 4 to 12 galaxies, as in training:",
        by_number(clean),
        "Numbers that training has not seen:",
        table(["n", "mean count", "std", "right"], unseen),
        f"One galaxy less changes the count: {', '.join(pair)}.",
        f"The count moved by one along its gradient; a galaxy has a norm of "
        f"{fooled['norm of a galaxy']:.2f} (medians of {fooled['images']} images):",
        table(
            ["change asked for", *keys],
            [[by, *(f"{fooled[by][key]:+.3f}" for key in keys)] for by in ("-1", "+1")],
        ),
    )


def draw(results: dict[str, Any], file: Path) -> None:
    r"""Draws the counts against the true numbers, with their std, for each kind of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 9.6), layout="constrained")
    panels = figure.subplots(3, 3, sharex=True, sharey=True)
    for panel, (name, row) in zip(panels.flat, results["counter"].items(), strict=True):
        panel.axvspan(TRAINED[0] - 0.5, TRAINED[-1] + 0.5, color="0.94")
        panel.plot([1, 15], [1, 15], color="0.6", lw=0.8)
        for method, shift, colour in (("peaks", 0.12, "tab:orange"), ("counter", -0.12, "C0")):
            rows = results[method][name]
            rows = {**rows["by_number"], **rows["outside"]}
            n = np.array([float(k) for k in rows])
            mean, std = (np.array([r[key] for r in rows.values()]) for key in ("mean", "std"))
            panel.errorbar(n + shift, mean, std, fmt="o", ms=3, lw=1, color=colour, label=method)
        panel.set_ylim(0, 17)
        panel.set_title(f"{name}: {row['accuracy']:.0%} right", fontsize=9)
    panels[0][0].legend(fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel("galaxies")
    for line in panels:
        line[0].set_ylabel("count, mean and std")
    figure.savefig(file, dpi=110)


def main(argv: list[str] | None = None) -> None:
    r"""Measures and writes tables and a figure, or exports."""
    parser = options(__doc__, "docs/results/counter")
    parser.add_argument("--counter", default=FILE, help="the weights, or a checkpoint")
    parser.add_argument("--images", type=int, default=128, help="the images of each number")
    parser.add_argument("--samples", type=Path, help="a file of samples to count in")
    parser.add_argument("--maps", help="the checkpoint of maps, if these are mirror samples")
    parser.add_argument("--n", type=int, default=8, help="the number samples should have")
    parser.add_argument("--export", nargs=2, metavar=("CKPT", "FILE"))
    args = parser.parse_args(argv)
    if args.export:
        save_counter(load_counter(args.export[0]), args.export[1])
        return
    counter = load_counter(args.counter)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.samples:
        mirror = load_mirror(args.maps) if args.maps else None
        text = json.dumps(score_samples(counter, args.samples, args.n, mirror), indent=1)
        (args.out / "samples.json").write_text(text + "\n")
        print(text)
        return
    results = measure(counter, args.images)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "results.md").write_text(text := report(results))
    draw(results, args.out / "figure.png")
    print(text)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    launch(main)
