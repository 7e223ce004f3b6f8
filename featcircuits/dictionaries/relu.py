"""ReLU dictionaries: the sparse autoencoders of Marks et al., and most early ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from featcircuits.dictionaries.affine import Affine, Options


@dataclass(frozen=True)
class ReLU:
    """max(pre, 0)."""

    slope = None
    rectified = True

    def __call__(self, pre: Tensor) -> Tensor:
        return pre.relu()

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing: it has no settings."""
        return {}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> ReLU:
        """Itself, since it holds no tensors."""
        return self


def relu(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, **options: Unpack[Options]) -> Affine:
    """`f = relu(x @ W_enc + b_enc)`; b_dec is not subtracted from x unless it is also the `centre`."""
    return Affine("relu", W_enc, b_enc, W_dec, b_dec, ReLU(), **options)
