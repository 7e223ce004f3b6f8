"""Gated dictionaries (Rajamanoharan et al. 2024): one map decides which features are active, another how strongly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from featcircuits.dictionaries.affine import Affine, Options


@dataclass(frozen=True, eq=False)
class Gated:
    """`relu((pre - b_gate) * exp(r_mag) + b_mag)` where the gate's pre-activation `pre` > 0; tensors [n_features]."""

    b_gate: Tensor
    r_mag: Tensor
    b_mag: Tensor

    rectified = True

    @property
    def slope(self) -> Tensor:
        """exp(r_mag) [n_features]."""
        return self.r_mag.exp()

    def __call__(self, pre: Tensor) -> Tensor:
        return ((pre - self.b_gate) * self.slope + self.b_mag).relu() * (pre > 0)

    def tensors(self) -> Mapping[str, Tensor]:
        """r_mag and b_mag; b_gate is the encoder's bias."""
        return {"r_mag": self.r_mag, "b_mag": self.b_mag}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Gated:
        """The same activation on another device and in another dtype."""
        return Gated(*(t.detach().to(device, dtype) for t in (self.b_gate, self.r_mag, self.b_mag)))


def gated(
    W_enc: Tensor,
    b_gate: Tensor,
    r_mag: Tensor,
    b_mag: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    **options: Unpack[Options],
) -> Affine:
    """`f = relu(z * exp(r_mag) + b_mag) where z + b_gate > 0, else 0`, `z = x @ W_enc`; b_enc is b_gate."""
    return Affine("gated", W_enc, b_gate, W_dec, b_dec, Gated(b_gate, r_mag, b_mag), **options)
