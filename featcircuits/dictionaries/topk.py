"""Top-k dictionaries: the k largest pre-activations of a token, and only positive ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.dictionaries.base import Affine
from featcircuits.errors import InputError


@dataclass(frozen=True)
class TopK:
    k: int

    slope = None

    def __call__(self, pre: Tensor) -> Tensor:
        top = pre.relu().topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values)

    def tensors(self) -> Mapping[str, Tensor]:
        return {"k": torch.tensor(self.k)}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TopK:
        return self


def topk(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int) -> Affine:
    """`f` keeps the `k` largest entries of `relu(x @ W_enc + b_enc)`; b_dec is not subtracted from x."""
    dictionary = Affine("topk", W_enc, b_enc, W_dec, b_dec, TopK(k))
    if not 1 <= k <= dictionary.n_features:
        raise InputError(f"topk dictionary: k is {k}, but must lie between 1 and the {dictionary.n_features} features")
    return dictionary
