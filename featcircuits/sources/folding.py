"""Scales moved between features and decoder rows, in float32 or wider, since half precision would lose them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError


def with_unit_rows(matrices: Mapping[str, Tensor], leave_close: bool = False) -> dict[str, Tensor]:
    """W_enc, b_enc, W_dec with features multiplied by the norms of their decoder rows, and rows divided by them.

    `leave_close`: change nothing if all rows have norm 1 up to rounding.
    """
    W_enc, b_enc, W_dec = (wide(matrices[name]) for name in ("W_enc", "b_enc", "W_dec"))
    if W_enc.dim() != 2 or W_dec.dim() != 2 or W_enc.shape[1:] != W_dec.shape[:1] or b_enc.shape != W_dec.shape[:1]:
        raise InputError(
            f"W_enc {list(W_enc.shape)}, b_enc {list(b_enc.shape)} and W_dec {list(W_dec.shape)} do not have the same "
            "features"
        )
    norm = W_dec.norm(dim=1)
    kept = norm == 0
    if leave_close:
        kept |= torch.isclose(norm, torch.ones_like(norm)).all()
    norm = torch.where(kept, 1.0, norm)
    return {"W_enc": W_enc * norm, "b_enc": b_enc * norm, "W_dec": W_dec / norm[:, None]}
