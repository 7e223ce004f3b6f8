"""The identity dictionary: every dimension is a feature and the error is exactly 0.

It traces a site in the neuron basis, where a whole module output is the sum of its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from featcircuits.dictionaries.dictionary import SameSite, Statistics
from featcircuits.errors import InputError


@dataclass(frozen=True)
class Identity(SameSite):
    """features = x. No matrix is stored: rows are unit vectors, projections are copies."""

    width: int
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def kind(self) -> str:
        """The name of the kind."""
        return "identity"

    @property
    def n_features(self) -> int:
        """The width of the site."""
        return self.width

    def encode(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        """The features themselves."""
        return features

    def decode_nothing(self) -> Tensor:
        """Zeros [width]."""
        return torch.zeros(self.width, device=self.device, dtype=self.dtype)

    def decode_change(self, change: Tensor) -> Tensor:
        """The change itself."""
        return change

    def decoder_rows(self, ids: Tensor) -> Tensor:
        """Unit vectors [n, width]."""
        return one_hot(ids, self.width).to(self.dtype)

    def encoder_rows(self, ids: Tensor) -> Tensor:
        """Unit vectors [n, width]."""
        return one_hot(ids, self.width).to(self.dtype)

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        """The changes at their positions and dimensions, zeros elsewhere [n_rows, width]."""
        total = torch.zeros(n_rows, self.width, device=change.device, dtype=change.dtype)
        return total.index_put_((row, ids), change, accumulate=True)

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        """The entries `[row, ids]` of the gradient [n]."""
        return gradient[row, ids]

    def is_active(self, features: Tensor) -> Tensor:
        """True everywhere."""
        return torch.ones_like(features, dtype=torch.bool)

    def tensors(self) -> Mapping[str, Tensor]:
        """The width, which alone defines it."""
        return {"width": torch.tensor([self.width])}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Identity:
        """The same dictionary on another device and in another dtype."""
        return Identity(self.width, device, dtype)


def identity(width: int) -> Identity:
    """Each of the `width` dimensions of a site is a feature (the neuron basis)."""
    if width < 1:
        raise InputError(f"identity dictionary: width is {width}, but must be at least 1")
    return Identity(width)
