r"""The loss of a mirror map (Feng et al., 2025, section 3.2)."""

__all__ = ["mirror_losses"]

import torch
from torch import Tensor

from constraints import Constraint, Given

from .mirror import Mirror


def mirror_losses(
    mirror: Mirror,
    constraint: Constraint,
    x: Tensor,
    noise: Tensor,
    y: Tensor | None = None,
    given: Given | None = None,
) -> dict[str, Tensor]:
    r"""Returns the terms of the loss. With :math:`\tilde y = g(x) + s n`, or
    :math:`\tilde y = y + s n` when mirror samples are given,

    .. math::
        \text{cycle\_forward} = \text{mean} |f(g(x)) - x|, \quad
        \text{cycle\_inverse} = \text{mean} |g(f(\tilde y)) - \tilde y|, \quad
        \text{constraint} = \text{mean}\, \ell(f(\tilde y))

    Arguments:
        mirror: The maps g and f.
        constraint: The distance :math:`\ell`.
        x: The data, with shape `(B, C, *S)`.
        noise: The scaled noise :math:`s n`, with the shape of `g(x)`.
        y: Samples of the mirror diffusion model, with the shape of `g(x)`, while fine-tuning.
        given: The data of each sample that the constraint needs, with shape `(B, *)` each.

    Returns:
        The scalars `cycle_forward`, `cycle_inverse`, `constraint`, `constraint_clean`
        (:math:`\ell(f(g(x)))`, watched but not trained) and `regulariser`.
    """
    y_clean = mirror(x)
    y_noisy = (y_clean if y is None else y) + noise
    # one pass of f over clean and noisy points
    x_clean, x_noisy = mirror.inverse(torch.cat([y_clean, y_noisy])).chunk(2)
    with torch.no_grad():
        constraint_clean = constraint(_full(x_clean), given).mean()
    return {
        "cycle_forward": (x_clean - x).abs().mean(),
        "cycle_inverse": (mirror(x_noisy) - y_noisy).abs().mean(),
        # in full precision: a residual is a small difference of large numbers
        "constraint": constraint(_full(x_noisy), given).mean(),
        "constraint_clean": constraint_clean,
        "regulariser": mirror.regulariser(x, y_clean),
    }


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
