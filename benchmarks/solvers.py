r"""Every solver on the same trained networks, in data space and in mirror space.

    python benchmarks/solvers.py runs/burgers-demo [--out runs/burgers-demo-solvers]

takes the networks of a run (`namm run configs/burgers --scale demo`), and for each solver and each
space makes two rows: with the published step size, and with one tuned on fields of the validation
split until the reduced chi2 is 1. Every row is the plain command `namm test` that is printed, on
fields of the test split; `namm report` gathers them. All have about the same number of calls of
the denoiser, but for the pseudo-inverse ones, which have 20, and the reference of 1000.
"""

import argparse
import json
import math
from pathlib import Path
from shlex import join
from typing import Any

import torch
from torch import Tensor

from constraints import derive_seed
from datamodules import FieldDataset
from inverse import Pullback
from mdm import load_denoiser
from namm import cli, load_mirror
from namm.checkpoint import build_part
from namm.report import report

LAST = "checkpoints/last.ckpt"
SPACES = {"data": "dm", "mirror": "mdm"}


def ddim(steps: int, eta: float = 1.0, start: float = 1.0) -> dict[str, Any]:
    return {"class_path": "mdm.DDIM", "init_args": {"steps": steps, "eta": eta, "start": start}}


# Class, the parameter that is tuned, its published value, and what else is fixed. The length of a
# step of trust sampling and of a normalised gradient, published as 1 for images of 3 x 256²
# numbers, is kept per square root of the number of entries of a field.
LENGTH = 32 / math.sqrt(3 * 256**2)
SOLVERS: dict[str, tuple[str, str, float, dict[str, Any]]] = {
    "DPS": ("DPS", "zeta", 0.05, {"transition": ddim(100)}),
    "DSG": ("DSG", "gamma", 0.2, {"transition": ddim(100)}),
    "LGD-MC(10)": (
        "LGDMC",
        "step_size",
        LENGTH,
        {"samples": 10, "normalise": True, "transition": ddim(100)},
    ),
    "Trust": ("Trust", "step_size", LENGTH, {"transition": ddim(20)}),
    "PiGDM": ("PiGDM", "weight", 6.0, {"iterations": 5, "transition": ddim(20, 0.0, 0.4)}),
    "C-PiGDM": ("CPiGDM", "weight", 15.0, {"iterations": 5, "transition": ddim(20, 0.0, 0.4)}),
    # the same guidance on the ancestral chain, from noise alone, at the weight of C-PiGDM, since
    # none is published
    "stochastic PiGDM": (
        "PiGDM",
        "weight",
        15.0,
        {
            "weighting": "conjugate",
            "integrate": True,
            "iterations": 5,
            "transition": ddim(20),
        },
    ),
}
CONFIGURED = 40.0  # the weight in configs/burgers/pigdm.yaml
REFERENCE = {
    "class_path": "inverse.DPS",
    "init_args": {"zeta": 0.05, "transition": ddim(1000)},
}


def recipe(name: str, value: float) -> dict[str, Any]:
    r"""Returns the class path and the arguments of a solver at a value of its parameter."""
    kind, parameter, _, fixed = SOLVERS[name]
    return {"class_path": f"inverse.{kind}", "init_args": {**fixed, parameter: value}}


def command(runs: Path, out: Path, space: str, method: str, solver: dict[str, Any]) -> list[str]:
    r"""Returns the arguments of `namm` that evaluate a solver on test fields.

    Arguments:
        runs: The folder of the run whose networks are used.
        out: The folder of the results.
        space: `data` or `mirror`.
        method: The name of the method in the results.
        solver: The class path and the arguments of the solver.
    """
    argv = ["test"]
    for file in ("trainer", "burgers/data", "burgers/inverse"):
        overlay = Path("configs/burgers/demo") / Path(file).name
        argv += ["-c", f"configs/{file}.yaml", "-c", f"{overlay}.yaml"]
    argv += [f"--model.init_args.denoiser.init_args.checkpoint={runs}/{SPACES[space]}/{LAST}"]
    if space == "mirror":
        argv += ["--model.init_args.mirror=namm.load_mirror"]
        argv += [f"--model.init_args.mirror.init_args.checkpoint={runs}/finetune/{LAST}"]
    argv += [f"--model.init_args.solver={json.dumps(solver)}"]
    argv += [f"--model.init_args.method={method}", f"--model.init_args.task={space} space"]
    argv += ["--model.init_args.fields=16", "--model.init_args.samples=2"]
    argv += ["--trainer.logger.save_dir", str(out.parent), "--trainer.logger.name", out.name]
    return [*argv, "--trainer.logger.version", version(space, method)]


def version(space: str, method: str) -> str:
    r"""Returns the folder of a row."""
    return f"{space}/{method.replace(' ', '_').replace(',', '')}"


class Tuner:
    r"""Creates what measures the reduced chi2 of a solver on validation fields.

    Arguments:
        runs: The folder of the run whose networks are used.
        space: `data` or `mirror`.
        fields: The number of fields, with one sample each.
        seed: The seed of the noise, another one than that of the evaluation.
        split: The split of the fields.
    """

    def __init__(
        self, runs: Path, space: str, fields: int = 8, seed: int = 1, split: str = "val"
    ) -> None:
        config = cli.parse(command(runs, runs, space, "tuning", recipe("DPS", 0.05)))
        self.denoiser = load_denoiser(f"{runs}/{SPACES[space]}/{LAST}").requires_grad_(False)
        self.operator = operator = build_part(config["model"]["init_args"]["operator"])
        dataset = FieldDataset(config["data"]["init_args"]["file"], split)
        x = torch.stack([dataset[i]["x"] for i in range(fields)])
        self.m = operator.measure(x, [derive_seed(seed, "field", i) for i in range(fields)])
        self.seeds = [derive_seed(seed, "solve", i) for i in range(fields)]
        self.shape = tuple(x.shape[1:])
        if space == "mirror":
            mirror = load_mirror(f"{runs}/finetune/{LAST}").requires_grad_(False)
            self.operator = Pullback(operator, mirror)

    def chi2(self, solver: dict[str, Any]) -> float:
        r"""Returns the reduced chi2 of a solver's answers."""
        y = build_part(solver)(self.denoiser, self.operator, self.m, self.shape, self.seeds).mean
        with torch.no_grad():
            residual: Tensor = (self.m - self.operator(y)) / self.operator.std
        return float(residual.square().mean())

    def tune(self, name: str) -> tuple[float, list[tuple[float, float]]]:
        r"""Returns the value of a solver's parameter whose chi2 is nearest to 1, and all tried:
        seven from a sixteenth to 16 times the published one, then three bisections where 1 is
        crossed first, or around the nearest."""
        published = SOLVERS[name][2]
        top = 1.0 if name == "DSG" else math.inf
        tried = [
            (value, self.chi2(recipe(name, value)))
            for value in sorted({min(top, published * 16 ** (k / 3)) for k in range(-3, 4)})
        ]
        for _ in range(10 - len(tried)):
            tried.sort()
            pairs = list(zip(tried[:-1], tried[1:], strict=True))
            crossing = [(a, b) for a, b in pairs if (a[1] - 1) * (b[1] - 1) < 0]
            nearest = min(pairs, key=lambda pair: sum(abs(math.log(chi2)) for _, chi2 in pair))
            (low, _), (high, _) = (crossing or [nearest])[0]
            value = math.sqrt(low * high)
            tried.append((value, self.chi2(recipe(name, value))))
        best, _ = min(tried, key=lambda pair: abs(math.log(max(pair[1], 1e-9))))
        return best, sorted(tried)


def main() -> None:
    r"""Tunes and evaluates every solver in both spaces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="the folder of a run of configs/burgers at demo")
    parser.add_argument("--out", type=Path, default=Path("runs/burgers-demo-solvers"))
    parser.add_argument("--only", nargs="*", default=list(SOLVERS), choices=list(SOLVERS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "tuning.json"
    tuning: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for space in SPACES:
        tuner = Tuner(options.runs, space)
        for name in options.only:
            if f"{space}/{name}" not in tuning:
                tuned, tried = tuner.tune(name)
                tuning[f"{space}/{name}"] = {"tuned": tuned, "tried": tried}
                file.write_text(json.dumps(tuning, indent=1))
                print(f"{space} space, {name}: {tuned:g}, of {tried}", flush=True)
            rows = {"published": SOLVERS[name][2], "tuned": tuning[f"{space}/{name}"]["tuned"]}
            if name == "stochastic PiGDM":
                rows["pigdm.yaml"] = CONFIGURED
            for row, value in rows.items():
                evaluate(options, space, f"{name}, {row}", recipe(name, value))
        evaluate(options, space, "DPS, 1000 calls", REFERENCE)
    report(options.out)


def evaluate(options: argparse.Namespace, space: str, method: str, solver: dict[str, Any]) -> None:
    r"""Runs one command, unless its results are there."""
    if (options.out / version(space, method) / "results.json").exists():
        return
    argv = command(options.runs, options.out, space, method, solver)
    print(f"namm {join(argv)}", flush=True)
    cli.main(argv)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
