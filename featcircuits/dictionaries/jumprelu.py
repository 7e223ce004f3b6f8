"""JumpReLU dictionaries, and BatchTopK and Matryoshka dictionaries, which are saved for inference as JumpReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor

from featcircuits.dictionaries.affine import Affine, Options


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """z where z > threshold [n_features], else 0; with `rectified` never negative."""

    threshold: Tensor
    rectified: bool = True

    slope = None

    def __call__(self, pre: Tensor) -> Tensor:
        return (pre.relu() if self.rectified else pre) * (pre > self.threshold)

    def tensors(self) -> Mapping[str, Tensor]:
        """The threshold and whether it is rectified."""
        settings = {} if self.rectified else {"rectified": torch.tensor(False)}
        return {"threshold": self.threshold, **settings}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> JumpReLU:
        """The same activation on another device and in another dtype."""
        return replace(self, threshold=self.threshold.detach().to(device, dtype))


def jumprelu(
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    threshold: Tensor,
    *,
    rectified: bool = True,
    **options: Unpack[Options],
) -> Affine:
    """`f = z if z > threshold else 0`, `z = x @ W_enc + b_enc`.

    b_dec is not subtracted from x unless it is also the `centre`. A feature whose threshold is
    negative stays at 0 or above unless `rectified` is false.
    """
    return Affine("jumprelu", W_enc, b_enc, W_dec, b_dec, JumpReLU(threshold, rectified), **options)
