r"""The number of objects in an image, as a small network counts them.

The network turns an image into a density, whose sum over all pixels is the count
(Lempitsky & Zisserman, 2010). The density at a pixel depends on a neighbourhood of it alone, and
on nothing else in the image or in the batch: the same weights count on a grid of any size, and
two images side by side hold as many objects as both together.
"""

__all__ = ["Count", "Counter", "load_counter", "save_counter"]

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .base import Constraint
from .batch import Given
from .digest import check_hash, hash_content
from .errors import InputError, check_fields
from .ranges import Natural, PositiveInt, Ranged

FILE = "pretrained/count/counter.safetensors"
ROOT = Path(__file__).resolve().parents[1]  # where the packages lie


class Counter(Ranged, nn.Module):
    r"""Creates a network that counts objects: strided convolutions to grids of half and of a
    quarter of the resolution, residual blocks on both, SiLU, and no normalisation, which would
    look at the whole image. The softplus at the end keeps the density of an empty sky near zero,
    however large it is.

    It counts in the precision of its weights, also under autocast: a count that is summed over a
    thousand cells would be off by the rounding of bfloat16.

    References:
        Learning To Count Objects in Images (Lempitsky & Zisserman, 2010)
        https://papers.nips.cc/paper/2010/hash/fe73f687e5bc5280214e0486b273a5f9-Abstract.html

    Arguments:
        width: The number of features at half the resolution; there are twice as many at a quarter.
        blocks: The number of residual blocks on each of the two grids.

    Raises:
        InputError: If there are no features, or less than no blocks.
    """

    def __init__(self, width: PositiveInt = 24, blocks: Natural = 2) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2),
            *(_Block(width) for _ in range(blocks)),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            *(_Block(2 * width) for _ in range(blocks)),
            nn.SiLU(),
            nn.Conv2d(2 * width, 1, 1),
        )
        nn.init.constant_(self.layers[-1].bias, -4.0)  # type: ignore  # most of a sky is empty

    def density(self, x: Tensor) -> Tensor:
        r"""Returns where the objects are.

        Arguments:
            x: The images, with shape `(B, 1, H, W)`.

        Returns:
            The number of objects in each cell of 4 x 4 pixels, with shape
            `(B, 1, ceil(H / 4), ceil(W / 4))`, in the precision of the images or of the weights,
            whichever is higher.
        """
        dtype: torch.dtype = self.layers[0].weight.dtype  # type: ignore[assignment]
        with torch.autocast(x.device.type, enabled=False):
            h = F.softplus(self.layers(x.to(dtype)))
        return h.to(torch.promote_types(x.dtype, dtype))

    def forward(self, x: Tensor) -> Tensor:
        r"""Returns the counts, with shape `(B,)`, of images `(B, 1, H, W)`, in the precision of
        `density`."""
        counts: Tensor = self.density(x).sum(dim=(1, 2, 3))
        return counts


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        correction: Tensor = self.layers(h)
        return h + correction


class Count(Constraint):
    r"""Creates the constraint that an image holds n objects: the residual is c(x) - n, with the
    count c(x) of a trained network.

    The network stays as it is and in evaluation mode while others train around it. Its own error
    is the floor of this distance; the attribute `sha256`, a hash of its weights, tells apart what
    was trained with different ones.

    References:
        Neural Approximate Mirror Maps for Constrained Diffusion Models (Feng et al., 2025)
        https://arxiv.org/abs/2406.12816

    Arguments:
        n: The number of objects.
        counter: The network that counts; the one that comes with the project if missing.

    Raises:
        InputError: If n is negative.
    """

    def __init__(self, n: Natural = 8, counter: Counter | None = None) -> None:
        super().__init__()
        self.n = n
        self.counter = (load_counter() if counter is None else counter).requires_grad_(False)
        self.sha256 = _hash(self.counter)
        self.eval()

    def train(self, mode: bool = True) -> "Count":
        r"""Does nothing: the network stays in evaluation mode."""
        return super().train(False)

    def residual(self, x: Tensor, given: Given | None = None) -> Tensor:
        r"""Returns `c(x) - n`.

        Arguments:
            x: The images, with shape `(B, 1, H, W)`.

        Returns:
            The residuals, with shape `(B, 1)`.
        """
        # rounded last: near zero even a coarse precision has small steps
        excess: Tensor = self.counter(x) - self.n
        return excess.to(x.dtype).unsqueeze(1)

    def attributes(self) -> dict[str, Any]:
        return {
            "problem": "count",
            "boundary": {"y": "none", "x": "none"},
            "parameters": {"n": self.n},
        }

    def check_shape(self, x: Tensor) -> None:
        check_fields(self, x, "images (B, 1, H, W)", x.ndim == 4 and x.shape[1] == 1)


def load_counter(file: str = FILE) -> Counter:
    r"""Loads a trained network.

    Arguments:
        file: The file that `save_counter` wrote, or a checkpoint (`.ckpt`) of `namm.Counting`,
            whose averaged weights are taken. A relative path is looked up in the working
            directory, and then beside the packages of the project.

    Raises:
        InputError: If there is no such file, or if it holds no counter.
    """
    places = dict.fromkeys((Path.cwd() / file, ROOT / file))  # of an absolute path only one
    path = next((str(place) for place in places if place.is_file()), None)
    if path is None:
        raise InputError(
            f"There is no trained counter {' or '.join(map(str, places))}: give the path "
            f"of {FILE} in a copy of the repository, or the checkpoint of a stage namm.Counting."
        )
    try:
        read = _read_checkpoint if path.endswith(".ckpt") else _read
        options, weights, content, said = read(path)
        counter = Counter(**options)
        if _shapes(weights) != _shapes(counter.state_dict()):
            raise ValueError("its weights do not have the sizes it states")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        advice = "give a file of `save_counter`, or a checkpoint of namm.Counting"
        raise InputError(f"{path} holds no counter ({reason}): {advice}.") from error
    check_hash(path, content, said)
    counter.load_state_dict(weights)
    return counter.eval()


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: weight.shape for key, weight in weights.items()}


def _read(file: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any], str | None]:
    r"""Returns the sizes and the weights of the network in a file, all of the content of the file,
    and the hash that the file holds."""
    try:
        with safe_open(file, framework="pt") as content:
            names = content.keys()
            weights = {name: content.get_tensor(name) for name in names}
            options = json.loads((content.metadata() or {})["counter"])
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    said = options.pop("sha256", None)
    return options, weights, {"counter": options, "state_dict": weights}, said


def _read_checkpoint(
    file: str,
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any], str | None]:
    r"""Returns the same of a checkpoint."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError("it is no checkpoint of tensors and numbers") from error
    said = state.pop("sha256", None)
    prefix, saved = "counter.", state["state_dict"]
    weights = {key[len(prefix) :]: w for key, w in saved.items() if key.startswith(prefix)}
    return state["hyper_parameters"]["counter"]["init_args"], weights, state, said


def save_counter(counter: Counter, file: str) -> None:
    r"""Writes the weights of a network and its two sizes; the same weights give the same bytes.

    Arguments:
        counter: The network.
        file: The file, which is replaced if it exists.
    """
    weights = {key: weight.detach().contiguous() for key, weight in counter.state_dict().items()}
    options = {"width": counter.width, "blocks": counter.blocks}
    said = hash_content({"counter": options, "state_dict": weights})
    Path(file).write_bytes(save(weights, {"counter": json.dumps({**options, "sha256": said})}))


def _hash(counter: Counter) -> str:
    digest = hashlib.sha256()
    for name, weight in counter.state_dict().items():
        digest.update(name.encode() + weight.cpu().numpy().tobytes())
    return digest.hexdigest()
