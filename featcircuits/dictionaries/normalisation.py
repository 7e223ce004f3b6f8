"""Normalisations of an activation before encoding. They return the statistics that undo them, and store nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.dictionaries.dictionary import Statistics


@dataclass(frozen=True)
class LayerNorm:
    """`(x - mean) / (std + eps)`, std with n - 1; undone as `y * std + mean`, without the eps, as SAELens does."""

    undone: bool = True
    eps: float = 1e-5

    name = "layer_norm"

    def __call__(self, x: Tensor) -> Tensor:
        std, mean = self.statistics(x)
        return (x - mean) / (std + self.eps)

    def statistics(self, x: Tensor) -> Statistics:
        """(std, mean) of x over its width [..., 1]."""
        mean = x.mean(-1, keepdim=True)
        return Statistics((x - mean).std(-1, keepdim=True), mean)


@dataclass(frozen=True)
class ConstantNorm:
    """`x * sqrt(width) / |x|`, undone in decoding by the norm; 0 stays 0."""

    undone: bool = True

    name = "constant_norm_rescale"

    def __call__(self, x: Tensor) -> Tensor:
        return x / self.statistics(x).scale

    def statistics(self, x: Tensor) -> Statistics:
        """(|x| / sqrt(width), 0) [..., 1]."""
        norm = x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
        return Statistics(norm.clamp_min(torch.finfo(x.dtype).tiny), torch.zeros_like(norm))


@dataclass(frozen=True)
class Centred:
    """`x - mean`, undone in decoding by the mean: for dictionaries of models that write no mean to the stream."""

    undone: bool = True

    name = "centred"

    def __call__(self, x: Tensor) -> Tensor:
        return x - self.statistics(x).shift

    def statistics(self, x: Tensor) -> Statistics:
        """(1, mean of x over its width) [..., 1]."""
        mean = x.mean(-1, keepdim=True)
        return Statistics(torch.ones_like(mean), mean)


NORMALISATIONS = {kind.name: kind for kind in (LayerNorm, ConstantNorm)}
"""Normalisations by the name in configs."""
