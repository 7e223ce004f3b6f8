"""JumpReLU dictionaries; BatchTopK and Matryoshka ones too, as they are saved for inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.dictionaries.base import Affine


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """z where z > threshold, else 0; never negative. threshold [n_features]."""

    threshold: Tensor

    slope = None

    def __call__(self, pre: Tensor) -> Tensor:
        return pre.relu() * (pre > self.threshold)

    def tensors(self) -> Mapping[str, Tensor]:
        return {"threshold": self.threshold}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> JumpReLU:
        return JumpReLU(self.threshold.detach().to(device, dtype))


def jumprelu(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, threshold: Tensor) -> Affine:
    """`f = z if z > threshold else 0`, `z = x @ W_enc + b_enc`; b_dec is not subtracted from x."""
    return Affine("jumprelu", W_enc, b_enc, W_dec, b_dec, JumpReLU(threshold))
