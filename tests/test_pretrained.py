"""Shipped weights: their outputs are those that were stored when they were shipped.

`python -m tests.test_pretrained` writes the stored outputs anew.
"""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import namm
from constraints import load_counter, noise

FILE = Path(__file__).with_name("pretrained.safetensors")
PROBLEMS = ("brightness", "burgers", "count", "kolmogorov", "periodic")
SIZE = 256  # of the stored numbers of an output


@torch.no_grad()
def outputs(problem: str) -> dict[str, Tensor]:
    """Returns the outputs of all models of a problem for fields of keyed noise, by name."""
    models = namm.load(problem)
    x = noise([(problem, i) for i in range(2)], models.shape, torch.zeros(()))
    y = models.mirror(x)
    t = torch.tensor([0.2, 0.7])
    found = {"g": y, "f": models.mirror.inverse(y + 0.1 * x), "mdm": models.denoiser(y, t)}
    if models.dm is not None:
        found["dm"] = models.dm(x, t)
    if problem == "count":
        counter = load_counter("pretrained/count/counter.safetensors")
        found["counter"] = counter(x.sigmoid())
    return {f"{problem}/{name}": output for name, output in found.items()}


def part(output: Tensor) -> Tensor:
    """Returns equally spaced numbers of an output, all of a short one."""
    return output.flatten()[:: max(1, output.numel() // SIZE)].contiguous()


def digest(output: Tensor) -> str:
    return hashlib.sha256(output.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_outputs_are_those_that_were_stored(problem: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = outputs(problem)
    finally:
        torch.set_num_threads(threads)
    with safe_open(FILE, framework="pt") as stored:  # has no iterator over its names
        digests = stored.metadata()
        assert found.keys() == {name for name in stored.keys() if name.startswith(problem)}  # noqa: SIM118
        for name, output in found.items():
            if digest(output) == digests[name]:  # every bit, on the processor that stored them
                continue
            expected = stored.get_tensor(name)
            atol = 1e-5 * float(expected.abs().max())
            torch.testing.assert_close(part(output), expected, rtol=1e-5, atol=atol)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: output for problem in PROBLEMS for name, output in outputs(problem).items()}
    save_file(
        {name: part(output) for name, output in found.items()},
        FILE,
        {name: digest(output) for name, output in found.items()},
    )
