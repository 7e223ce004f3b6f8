"""Patches along directions, and their parts that readers see.

These are the three numbers of the subspace-illusion check (Makelov et al. 2023), independent of any model: the caller
gives activations and a function that runs the rest of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12


def along(change: Tensor, direction: Tensor) -> Tensor:
    """The part of a change [..., width] along a direction [..., width]: a one-dimensional patch."""
    size = direction.square().sum(-1, keepdim=True).clamp(min=_TINY)
    return (change * direction).sum(-1, keepdim=True) / size * direction


def row_part(direction: Tensor, readers: Tensor, cut: float = 1e-3) -> Tensor:
    """The part of directions [n, width] that readers [n, k, width] can see.

    Singular values below `cut` times the largest count as unread. Without readers the part is 0.
    """
    _, sizes, rows = torch.linalg.svd(readers, full_matrices=False)
    kept = (sizes > cut * sizes.amax(-1, keepdim=True)) & (sizes > _TINY)
    seen = (rows @ direction[..., None])[..., 0] * kept
    return (seen[..., None, :] @ rows)[..., 0, :]


def outside(values: Tensor, natural: Tensor, margin: float = 0.05) -> float:
    """The share of the coordinates of `values` [n, width] that are outside the range of `natural` [m, width].

    The range is widened by `margin` of its width on either side.
    """
    low, high = natural.amin(0), natural.amax(0)
    slack = margin * (high - low) + _TINY
    return float(((values < low - slack) | (values > high + slack)).double().mean())


def ratio(part: Tensor, whole: Tensor) -> float:
    """The mean of one effect over that of another; infinite if only the first is not 0, NaN if both are 0."""
    top, bottom = float(part.mean()), float(whole.mean())
    least = 1e-6 * max(float(part.abs().mean()), float(whole.abs().mean()), _TINY)
    if abs(bottom) > least:
        return top / bottom
    return float("inf") if abs(top) > least else float("nan")
