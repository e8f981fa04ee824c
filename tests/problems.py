"""Small problems with known answers, and small networks, which several tests share."""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn

from constraints import Burgers, Constraint
from datamodules import BurgersData
from mdm import Denoiser, DiffusersDenoiser, GaussianDenoiser, Result, Sampler, Schedule
from namm import ICNN, Mirror, MirrorMap, PatchNet

AXES = ("circular", "replicate")  # space and time of Burgers


def counted(denoiser: Any) -> Any:
    """Keeps the numbers of calls and vector-Jacobian products of a denoiser, as attributes."""

    def reset_cost() -> None:
        denoiser.calls = denoiser.vjps = 0

    def count_vjp(gradient: Tensor) -> None:
        denoiser.vjps += 1

    def count_call(network: nn.Module, inputs: Any, output: Tensor) -> None:
        denoiser.calls += 1
        if output.requires_grad:
            output.register_hook(count_vjp)

    reset_cost()
    denoiser.reset_cost = reset_cost
    denoiser.register_forward_hook(count_call)
    return denoiser


def gaussian(
    schedule: Schedule | None = None, mean: float = 0.5, dtype: torch.dtype = torch.float64
) -> GaussianDenoiser:
    """A prior on rows of 4 points, correlated by 0.8 per point, with standard deviation 0.6."""

    points = torch.arange(4)
    cov = 0.36 * 0.8 ** (points[:, None] - points).abs()
    return counted(GaussianDenoiser(cov.to(dtype), mean, schedule))


class Tiny(nn.Module):
    """A network of two convolutions for noisy fields and their times."""

    def __init__(self, channels: int = 1, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, y_t: Tensor, t: Tensor) -> Tensor:
        level = (t / 1000).reshape(-1, 1, 1, 1).expand(-1, 1, *y_t.shape[2:])
        return self.last(F.silu(self.first(torch.cat([y_t, level], dim=1))))


def tiny_denoiser(**options: Any) -> DiffusersDenoiser:
    """A denoiser whose weights depend on nothing, of two convolutions."""

    torch.manual_seed(1)
    return DiffusersDenoiser(Tiny(options.get("patch", 1) ** 2), **{"padding": AXES, **options})


class Recorder(Sampler):
    """A sampler that leaves each of its samples in a folder, named by its seed."""

    def __init__(self, sampler: Sampler, folder: Path) -> None:
        self.sampler, self.folder = sampler, folder
        folder.mkdir(parents=True)

    def __call__(self, denoiser: Denoiser, shape: Sequence[int], seeds: Sequence[int]) -> Result:
        result = self.sampler(denoiser, shape, seeds)
        record(self.folder, seeds, result)
        return result


def record(folder: Path, seeds: Sequence[int], result: Result) -> None:
    for seed, y, mean in zip(seeds, result.noisy, result.y, strict=True):
        torch.save(torch.stack([y, mean]), folder / f"{seed}.pt")


def recorded(folder: Path) -> dict[str, Tensor]:
    """The samples in a folder by their seeds: with the last noise, and without."""

    return {file.stem: torch.load(file) for file in folder.iterdir()}


class Affine(Mirror):
    """The mirror g(x) = a x + b, with the inverse f(y) = c y."""

    def __init__(self, a: float = 2.0, b: float = 1.0, c: float = 0.25) -> None:
        super().__init__()
        self.a, self.b, self.c = a, b, c

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x + self.b

    def inverse(self, y: Tensor) -> Tensor:
        return self.c * y


class Total(Constraint):
    """Fields whose entries sum to a given number."""

    def __init__(self, total: float = 1.0) -> None:
        super().__init__()
        self.total = total

    def residual(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(dim=1, keepdim=True) - self.total


def tiny_mirror() -> MirrorMap:
    """Two maps with a few hundred weights, for grids of even sides."""

    inverse = PatchNet(patch=2, width=8, blocks=1, detail=4, finish=1, channels=1, padding=AXES)
    return MirrorMap(ICNN(width=4, layers=1, channels=1, padding=AXES), inverse)


def tiny_data(folder: Path, constraint: Burgers | None = None, **options: Any) -> BurgersData:
    """A few Burgers fields of 8 points and 8 frames, in the file `fields.h5` of the folder."""

    sizes = {"train": 12, "val": 4, "test": 6}
    options = {"points": 8, "frames": 8, "batch_size": 4, "sizes": sizes, **options}
    file = options.pop("file", str(folder / "fields.h5"))
    return BurgersData(constraint or Burgers(), file=file, **options)


def make_trainer(folder: Path, callbacks: Sequence[L.Callback] = (), **options: Any) -> L.Trainer:
    """A silent trainer for the CPU that writes nothing of its own."""

    options = {"devices": 1, "max_steps": 3, "num_sanity_val_steps": 0, "logger": False} | options
    keeps = any(isinstance(callback, Checkpoint) for callback in callbacks)
    return L.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=keeps,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
        **options,
    )


class Spawned(DDPStrategy):
    """Two processes that part in order. What is left of a process group when an interpreter ends
    can abort it: a thread of the group that still holds a tensor asks for a lock that is gone."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn", process_group_backend="gloo")

    def teardown(self) -> None:
        super().teardown()
        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()


@contextmanager
def processes() -> Iterator[None]:
    """Leaves none of the processes behind that a trainer started, whatever becomes of it."""

    try:
        yield
    finally:
        for child in multiprocessing.active_children():
            child.kill()


def randomise(module: nn.Module, scale: float, seed: int = 0) -> nn.Module:
    """Gives all weights normal values, so that nothing is small or symmetric by construction."""

    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data.copy_(scale * torch.randn(weight.shape, generator=generator))
    return module
