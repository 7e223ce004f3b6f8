"""NaN and infinity in a run are found before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.sites import Site

_NAN_REMEDY = (
    "check its weights and dtype (in float64, transformers' eager attention computes NaN behind left padding: "
    "use right padding or attn_implementation='sdpa')"
)


def check_finite(logits: Tensor, activations: Mapping[Site, Tensor]) -> None:
    """Raise `InputError` for NaN or infinity, naming the first site that has it."""
    check_activations(activations)
    if not torch.isfinite(logits).all():
        raise InputError(f"the model's logits hold NaN or infinity; {_NAN_REMEDY}")


def check_activations(activations: Mapping[Site, Tensor]) -> None:
    """Raise `InputError` for NaN or infinity in an activation, naming the first site that has it."""
    for site, x in activations.items():
        if not torch.isfinite(x).all():
            raise InputError(f"the model's activation at {site} holds NaN or infinity; {_NAN_REMEDY}")
