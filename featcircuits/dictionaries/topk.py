"""Top-k dictionaries: the k largest pre-activations of a token, if they are positive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from featcircuits.dictionaries.affine import Affine, Options
from featcircuits.errors import InputError


@dataclass(frozen=True)
class TopK:
    """The `k` largest pre-activations, 0 for the others; with `rectified` never negative."""

    k: int
    rectified: bool = True

    slope = None

    def __call__(self, pre: Tensor) -> Tensor:
        top = (pre.relu() if self.rectified else pre).topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values)

    def tensors(self) -> Mapping[str, Tensor]:
        """The settings `k` and `rectified`."""
        settings = {} if self.rectified else {"rectified": torch.tensor(False)}
        return {"k": torch.tensor(self.k), **settings}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TopK:
        """Itself, since it holds no floats."""
        return self


def topk(
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    k: int,
    *,
    rectified: bool = True,
    **options: Unpack[Options],
) -> Affine:
    """`f` keeps the `k` largest entries of `relu(x @ W_enc + b_enc)`.

    b_dec is not subtracted from x unless it is also the `centre`. Without the relu (`rectified`
    false) negative entries among the k largest are features as well.
    """
    dictionary = Affine("topk", W_enc, b_enc, W_dec, b_dec, TopK(k, rectified), **options)
    check_k(dictionary, k)
    return dictionary


def check_k(dictionary: Affine, k: int) -> None:
    """Raise `InputError` unless k is between 1 and the number of features."""
    if not 1 <= k <= dictionary.n_features:
        raise InputError(
            f"{dictionary.kind} dictionary: k is {k}, but must be between 1 and the {dictionary.n_features} features"
        )
