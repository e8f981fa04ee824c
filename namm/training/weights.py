r"""The file of shipped weights: of a checkpoint what using a model needs, and nothing of what
training it further would.

A `safetensors` file holds the weights of one stage as they are at test time, the averaged ones,
and as text the rest of what `read_checkpoint` returns: the recipes of the parts, what they were
trained on, the steps and their counted operations. Reading it runs no code. Without the weights
such a file is the record of a training that later ones were built on.
"""

__all__ = ["find", "holds_weights", "is_record", "pack", "unpack"]

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from constraints import InputError, check_hash, hash_content

SCHEMA = "namm-weights/1"
ROOT = Path(__file__).resolve().parents[2]  # where the packages lie


def find(path: str | Path) -> Path | None:
    r"""Returns where a relative path exists: in the working directory, or else beside the packages
    of the project; `None` if in neither.

    Arguments:
        path: The path of a file or a folder.
    """
    return next((place for place in (Path(path), ROOT / path) if place.exists()), None)


def holds_weights(path: str | Path) -> bool:
    r"""Returns whether a file holds shipped weights, by what it says of itself."""
    file = find(path) if Path(path).suffix == ".safetensors" else None
    if file is None or not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as content:
            return SCHEMA in (content.metadata() or {})
    except SafetensorError:
        return False


def is_record(path: str | Path) -> bool:
    r"""Returns whether a file of shipped weights is the record of a training alone."""
    return not unpack(find(path) or path)["state_dict"]


def pack(state: dict[str, Any], half: bool = False, record: bool = False, **facts: Any) -> bytes:
    r"""Returns the content of the file; the same checkpoint gives the same bytes.

    Kept are the weights of the one part that a stage trains: the denoiser, or else the maps. All
    other parts come from their recipes.

    Arguments:
        state: The checkpoint, from `read_checkpoint`.
        half: Whether to round kernels and matrices to float16. Vectors stay as they are, and the
            forward map too: its bits tell the space of a diffusion model.
        record: Whether to leave out the weights.
        facts: Further facts of the training.

    Raises:
        InputError: If there is no recipe of the part, or a weight is not finite, or too large for
            float16.
    """
    recipes = state.get("hyper_parameters", {})
    part = "denoiser" if "denoiser" in recipes else "mirror"
    if not isinstance(recipes.get(part), dict):
        raise InputError(f"A checkpoint needs the recipe of its {part}: train it with `namm fit`.")
    weights = {
        name: _rounded(name, weight) if half else weight.contiguous()
        for name, weight in state["state_dict"].items()
        if name.startswith(f"{part}.") and not record
    }
    if bad := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise InputError(f"The weights {bad[0]} are not finite: train the {part} again.")
    counts = {k: c for k, c in state.get("callbacks", {}).items() if "per_step" in c}
    kept = {key: state.get(key) for key in ("global_step", "hyper_parameters", "provenance")}
    about = json.loads(json.dumps({**kept, "callbacks": counts, **facts}))
    about["sha256"] = hash_content({**about, "state_dict": weights})
    return save(weights, {SCHEMA: json.dumps(about)})


def unpack(path: str | Path) -> dict[str, Any]:
    r"""Reads a file of shipped weights, in the structure of a checkpoint; `shipped` is its path.

    Arguments:
        path: The path of the file.

    Raises:
        InputError: If it holds something else.
    """
    try:
        with safe_open(path, framework="pt") as content:
            about = dict(json.loads((content.metadata() or {})[SCHEMA]))
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no weights of `namm ship`: give another file.") from error
    said = about.pop("sha256", None)
    check_hash(path, {**about, "state_dict": weights}, said)
    whole = {k: w.float() if w.dtype == torch.float16 else w for k, w in weights.items()}
    # the same simulation may differ in its last bits on another processor, and so does its hash
    (about.get("provenance") or {}).pop("data", None)
    return {**about, "state_dict": whole, "shipped": str(path)}


def _rounded(name: str, weight: Tensor) -> Tensor:
    if weight.dtype != torch.float32 or weight.ndim < 2 or ".forward_map." in name:
        return weight.contiguous()
    rounded = weight.half().contiguous()
    if not rounded.isfinite().all():
        peak = float(weight.abs().max())
        raise InputError(f"{name} reaches {peak:.3g}, too much for float16: ship without --half.")
    return rounded
