r"""Modules as plain data: the class and the parameters that tell a module from another one."""

__all__ = ["describe", "describe_constraint", "plain_data"]

import hashlib
from typing import Any

import numpy as np
from torch import Tensor, nn

from constraints import Constraint


def describe(module: nn.Module) -> dict[str, Any]:
    r"""Returns the class of a module and the public parameters and tensors of the module itself.
    A hash stands for a tensor of more than 16 numbers.

    Arguments:
        module: The module.
    """
    facts = {
        key: plain_data(value)
        for key, value in sorted(vars(module).items())
        if not key.startswith("_")
        and key != "training"
        and isinstance(value, (bool, int, float, str, list, tuple, np.generic))
    }
    tensors = {**dict(module.named_buffers(recurse=False)), **module._parameters}
    for name, tensor in tensors.items():
        if tensor is not None:
            facts[name] = tensor.tolist() if tensor.numel() <= 16 else _digest([tensor])
    return {"class": type(module).__qualname__, **facts}


def describe_constraint(constraint: Constraint) -> dict[str, Any]:
    r"""Returns the description of a constraint, of its parts and of its terms.

    Arguments:
        constraint: The constraint.
    """
    described = describe(constraint)
    terms: list[dict[str, Any]] = []
    for name, child in constraint.named_children():
        for module in child if isinstance(child, nn.ModuleList) else [child]:
            if isinstance(module, Constraint):
                terms.append(describe_constraint(module))
            else:
                weights = _digest([*module.parameters(), *module.buffers()])
                described[name] = {**describe(module), "weights": weights}
    return {**described, "terms": terms} if terms else described


def plain_data(value: Any) -> Any:
    r"""Returns a value as plain data, which checkpoints and JSON give back: dictionaries, lists,
    numbers and text. Text stands for any other value."""
    if isinstance(value, dict):
        return {str(k): plain_data(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()
