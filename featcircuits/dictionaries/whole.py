"""The whole dictionary: it has no features, and its error is the activation itself.

It makes a site one node per position, so that whole outputs of modules are traced and patched by
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
    """No features; error = x."""

    width: int
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def kind(self) -> str:
        """The name of the kind."""
        return "whole"

    @property
    def n_features(self) -> int:
        """0."""
        return 0

    def encode(self, x: Tensor) -> Tensor:
        """No features [..., 0]."""
        return x[..., :0]

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Zeros [..., width]."""
        return features.new_zeros(*features.shape[:-1], self.width)

    def decode_nothing(self) -> Tensor:
        """Zeros [width]."""
        return torch.zeros(self.width, device=self.device, dtype=self.dtype)

    def decode_change(self, change: Tensor) -> Tensor:
        """Zeros [..., width]."""
        return self.decode(change)

    def decoder_rows(self, ids: Tensor) -> Tensor:
        """No rows [0, width]."""
        return torch.zeros(len(ids), self.width, device=ids.device, dtype=self.dtype)

    def encoder_rows(self, ids: Tensor) -> Tensor:
        """No rows [0, width]."""
        return self.decoder_rows(ids)

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        """Zeros [n_rows, width]."""
        return torch.zeros(n_rows, self.width, device=change.device, dtype=change.dtype)

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        """No gradients [0]."""
        return gradient.new_zeros(len(ids))

    def is_active(self, features: Tensor) -> Tensor:
        """No features, so an empty mask [..., 0]."""
        return torch.ones_like(features, dtype=torch.bool)

    def tensors(self) -> Mapping[str, Tensor]:
        """The width, which alone defines it."""
        return {"width": torch.tensor([self.width])}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Whole:
        """The same dictionary on another device and in another dtype."""
        return Whole(self.width, device, dtype)


def whole(width: int) -> Whole:
    """The site's activation, `width` wide, as a single node (its error node)."""
    if width < 1:
        raise InputError(f"whole dictionary: width is {width}, but must be at least 1")
    return Whole(width)
