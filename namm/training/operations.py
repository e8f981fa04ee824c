r"""The counts of floating-point operations and of calls, and training up to a given count."""

__all__ = ["CountCalls", "CountFlops", "Flops"]

from typing import Any, Self

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from constraints import InputError

from .checkpoint import read_checkpoint
from .stage import Stage, first_rows, training_loader


class CountFlops(TorchDispatchMode):
    r"""Creates a context that counts the floating-point operations of all matrix products and
    convolutions run inside it, backward passes included, by PyTorch's own formulas. The count is
    the attribute `flops`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


class CountCalls:
    r"""Creates a context that counts the calls of a network, as `calls`, and the vector-Jacobian
    products through its outputs, as `vjps`.

    Arguments:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.calls = self.vjps = 0

    def __enter__(self) -> Self:
        self.hook = self.network.register_forward_hook(self._count_call)
        return self

    def __exit__(self, *exception: object) -> None:
        self.hook.remove()

    def _count_call(self, network: nn.Module, inputs: Any, output: Tensor) -> None:
        self.calls += 1
        if output.requires_grad:
            output.register_hook(self._count_vjp)

    def _count_vjp(self, gradient: Tensor) -> None:
        self.vjps += 1


class Flops(L.Callback):
    r"""Creates the callback that counts the operations of one training step of a `Stage` before
    training, logs the total as `flops`, and keeps it in the checkpoint.

    Arguments:
        match: The paths of checkpoints whose counted operations this training may use, all
            together, instead of `trainer.max_steps`: two methods compared at equal compute.
    """

    def __init__(self, match: list[str] | None = None) -> None:
        self.match = match
        self.per_step = 0
        self.total = 0
        self._steps = 0  # that are in the total

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not isinstance(pl_module, Stage):
            return
        batch = next(iter(training_loader(trainer)))
        size = len(batch["x"])
        # one sample is enough, and at this point the module has not been moved to its device yet
        device = next(pl_module.parameters()).device
        batch = move_data_to_device(first_rows(batch, 1), device)
        modes = {m: m.training for m in pl_module.modules()}
        pl_module.train()
        with CountFlops() as counter, torch.random.fork_rng():
            pl_module.losses(batch, "count")["loss"].backward()
        pl_module.zero_grad(set_to_none=True)
        for module, mode in modes.items():
            module.training = mode
        batches = trainer.world_size * trainer.accumulate_grad_batches
        self.per_step = counter.flops * size * batches
        if self.match:
            budget = sum(self._spent(path) for path in self.match)
            steps = max(1, round(budget / self.per_step))
            trainer.fit_loop.epoch_loop.max_steps = steps
            trainer.fit_loop.max_epochs = -1
            L.pytorch.utilities.rank_zero_info(
                f"Training for {steps} steps: {budget:.3g} operations, as counted in "
                f"{' and '.join(self.match)}."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps = trainer.global_step
        if not (self._steps and self.total):  # it is new, or was not counted before
            self.total = self.per_step * self._steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        if not self.per_step:
            return
        self.total += self.per_step * (trainer.global_step - self._steps)
        self._steps = trainer.global_step
        pl_module.log("flops", float(self.total), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "per_step": self.per_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]

    @classmethod
    def _spent(cls, path: str) -> int:
        for state in read_checkpoint(path)["callbacks"].values():
            if isinstance(state, dict) and {"total", "per_step"} <= set(state):
                total: int = state["total"]
                return total
        raise InputError(f"The checkpoint {path} has no count of operations: train it with Flops.")
