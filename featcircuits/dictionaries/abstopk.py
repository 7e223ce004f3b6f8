"""AbsTopK dictionaries: the k pre-activations of a token that are largest in size, with their sign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from featcircuits.dictionaries.affine import Affine, Options
from featcircuits.dictionaries.topk import check_k


@dataclass(frozen=True)
class AbsTopK:
    """The `k` pre-activations that are largest in size, with their sign; 0 for the others."""

    k: int

    slope = None
    rectified = False

    def __call__(self, pre: Tensor) -> Tensor:
        kept = pre.abs().topk(self.k, dim=-1).indices
        return torch.zeros_like(pre).scatter(-1, kept, pre.gather(-1, kept))

    def tensors(self) -> Mapping[str, Tensor]:
        """The setting `k`."""
        return {"k": torch.tensor(self.k)}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> AbsTopK:
        """Itself, since it holds no floats."""
        return self


def abstopk(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int, **options: Unpack[Options]) -> Affine:
    """`f` keeps the `k` entries of `x @ W_enc + b_enc` that are largest in size; features may be negative."""
    dictionary = Affine("abstopk", W_enc, b_enc, W_dec, b_dec, AbsTopK(k), **options)
    check_k(dictionary, k)
    return dictionary
