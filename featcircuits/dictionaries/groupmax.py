"""GroupMax dictionaries: features are in k groups of neighbours, and the largest of each group is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from featcircuits.dictionaries.affine import Affine, Options
from featcircuits.dictionaries.topk import check_k
from featcircuits.errors import InputError


@dataclass(frozen=True)
class GroupMax:
    """The largest of `relu(pre)` in each of `k` groups of neighbours; 0 for the others."""

    k: int

    slope = None
    rectified = True

    def __call__(self, pre: Tensor) -> Tensor:
        groups = pre.relu().unflatten(-1, (self.k, -1))
        largest = groups.max(-1, keepdim=True)
        return torch.zeros_like(groups).scatter(-1, largest.indices, largest.values).flatten(-2)

    def tensors(self) -> Mapping[str, Tensor]:
        """The setting `k`."""
        return {"k": torch.tensor(self.k)}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> GroupMax:
        """Itself, since it holds no floats."""
        return self


def groupmax(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int, **options: Unpack[Options]) -> Affine:
    """`f` keeps the largest entry of `relu(x @ W_enc + b_enc)` in each of `k` groups of equal size."""
    dictionary = Affine("groupmax", W_enc, b_enc, W_dec, b_dec, GroupMax(k), **options)
    check_k(dictionary, k)
    if dictionary.n_features % k:
        raise InputError(
            f"groupmax dictionary: {dictionary.n_features} features cannot be split into {k} groups of equal size"
        )
    return dictionary
