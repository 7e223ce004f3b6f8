"""The whole dictionary: no features, and an error term that is the activation itself.

With it a site is one node at each position, so that whole module outputs are traced and patched by
the same code as features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.dictionaries.dictionary import SameSite, Statistics
from featcircuits.errors import InputError


@dataclass(frozen=True)
class Whole(SameSite):
    """features: none; error = x."""

    width: int
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def kind(self) -> str:
        return "whole"

    @property
    def n_features(self) -> int:
        return 0

    def encode(self, x: Tensor) -> Tensor:
        return x[..., :0]

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        return features.new_zeros(*features.shape[:-1], self.width)

    def decode_nothing(self) -> Tensor:
        return torch.zeros(self.width, device=self.device, dtype=self.dtype)

    def decode_change(self, change: Tensor) -> Tensor:
        return self.decode(change)

    def decoder_rows(self, ids: Tensor) -> Tensor:
        return torch.zeros(len(ids), self.width, device=ids.device, dtype=self.dtype)

    def encoder_rows(self, ids: Tensor) -> Tensor:
        return self.decoder_rows(ids)

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        return torch.zeros(n_rows, self.width, device=change.device, dtype=change.dtype)

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        return gradient.new_zeros(len(ids))

    def is_active(self, features: Tensor) -> Tensor:
        return torch.ones_like(features, dtype=torch.bool)

    def tensors(self) -> Mapping[str, Tensor]:
        return {"width": torch.tensor([self.width])}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Whole:
        return Whole(self.width, device, dtype)


def whole(width: int) -> Whole:
    """The site's activation, `width` wide, as a single node (its error term)."""
    if width < 1:
        raise InputError(f"whole dictionary: width is {width}, but must be at least 1")
    return Whole(width)
