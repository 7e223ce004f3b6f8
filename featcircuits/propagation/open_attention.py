"""Attention laid open: queries, keys, values and patterns of any model that transformers dispatches.

While `attending` holds, every attention of the model goes through a given function in place of its
kernel. `key_effect` has the finite change of attention when one position's key moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture, architecture_of
from featcircuits.propagation.attention_kernels import Pattern, as_method, per_head, registered

__all__ = ["Pattern", "attending", "key_effect", "per_head", "without_each"]

Attend = Callable[..., tuple[Tensor, None]]
"""(module, query, key, value, mask, scaling=, softcap=, ...) -> (output [row, slot, head, width], None)."""


@contextmanager
def attending(model: Any, attend: Attend, architecture: Architecture | None = None) -> Iterator[None]:
    """Use `attend` as the model's attention; the model's own choice is put back afterwards.

    Masks arrive as numbers to be added. Raises `InputError` for attention that no function can replace.
    """
    architecture = architecture or architecture_of(model)
    own = architecture.family.attention
    if own is None:
        with _as_eager_kernel(model, attend):
            yield
        return
    chosen = model.config._attn_implementation
    if chosen != "eager":
        raise InputError(
            f"attention of family {architecture.model_type!r} cannot be laid open while the model runs {chosen!r}, as "
            "atp-qk, atp-star and atp-hop1 need; load the model with attn_implementation='eager'"
        )
    with ExitStack() as methods:
        for layer in architecture.layers(model):
            methods.enter_context(
                as_method(layer.get_submodule(own.module), own, lambda _, *args, **rest: attend(*args, **rest))
            )
        yield


@contextmanager
def _as_eager_kernel(model: Any, attend: Attend) -> Iterator[None]:
    """The function stands in for the "eager" kernel of transformers' registry."""
    if not model._supports_attention_backend:
        raise InputError(
            f"{type(model).__name__} computes attention by itself and not by transformers' attention functions: "
            "atp-qk, atp-star and atp-hop1 cannot lay it open; its family's row needs `attention` "
            "(docs/howto/model-family.md)"
        )
    config = model.config.get_text_config()
    chosen = config._attn_implementation
    try:
        config._attn_implementation = "eager"
        with registered("eager", attend):
            yield
    finally:
        config._attn_implementation = chosen


def without_each(logits: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """For every key: the others' logsumexp, and the mean of `gamma` under their softmax.

    Shapes [..., keys]. Subtracting a key from the sum is well conditioned where it has at most half
    of the weight; the one key of a row that may have more is left out of a softmax of its own. So
    the result is exact on saturated rows too, which is where it is needed.
    """
    weights = logits.softmax(-1)
    total, mean = logits.logsumexp(-1, keepdim=True), (weights * gamma).sum(-1, keepdim=True)
    best = logits.argmax(-1, keepdim=True)
    rest = logits.scatter(-1, best, -torch.inf)
    rest_weights = rest.softmax(-1).nan_to_num(0.0)
    is_best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best, True)
    share = weights.masked_fill(is_best, 0.0)
    others_total = torch.where(is_best, rest.logsumexp(-1, keepdim=True), total + torch.log1p(-share))
    others_mean = torch.where(
        is_best, (rest_weights * gamma).sum(-1, keepdim=True), (mean - share * gamma) / (1 - share)
    )
    return others_total, others_mean


def key_effect(logits: Tensor, gamma: Tensor, change: Tensor) -> Tensor:
    """Effect on `(softmax(logits) * gamma).sum()` of moving each logit alone by `change`: [..., keys].

    The closed form of the key fix of AtP* (Kramar et al. 2024, section 3.1.1) in log-odds, equal to
    a softmax computed anew for every key.
    """
    others_total, others_mean = without_each(logits, gamma)
    odds = logits - others_total
    moved = torch.sigmoid(odds + change) - torch.sigmoid(odds)
    return torch.where(torch.isfinite(logits), moved * (gamma - others_mean), torch.zeros_like(gamma))
