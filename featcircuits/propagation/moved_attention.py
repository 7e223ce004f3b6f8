"""The finite change of attention when one position moves, in closed form.

Symbols, of one head and one query q:

    s_k, p_k     logit and weight of key k: p = softmax(s)
    gamma_k      <gradient at the head's output, value of k>, so that <gradient, output> = sum over k of p_k gamma_k
    S_k, mu_k    of all keys but k: the logsumexp of their logits, and the mean of gamma under their softmax

    p_k = sigmoid(s_k - S_k)    and    sum over j of p_j gamma_j = mu_k + p_k (gamma_k - mu_k)

When only key k moves, S_k and mu_k do not change, so its new s_k and gamma_k give the new output (Kramar et
al. 2024, section 3.1.1). A prime in comments is `_new` in the code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.propagation.attention_kernels import Pattern


class MovedToken(NamedTuple):
    """Positions `slot` [n] of `example` [n] that take this query, key and value [n, head, width]."""

    example: Tensor
    slot: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


class AttentionEffects(NamedTuple):
    """<gradient, change of the heads' output> [n] when a position takes another query and key."""

    value_held: Tensor
    value_moved: Tensor
    """Its value too"""


def attention_effects(pattern: Pattern, gradient: Tensor, moved: MovedToken) -> AttentionEffects:
    """Effects by way of all queries; `gradient` [example, head, slot, width]."""
    s = pattern.logits()
    gamma = gradient @ pattern.value.transpose(-1, -2)
    held, free = _other_queries(pattern, gradient, s, gamma, moved)
    before, own_held, own_free = _own_query(pattern, gradient, s, gamma, moved)
    return AttentionEffects(held + own_held - before, free + own_free - before)


def _other_queries(pattern: Pattern, gradient: Tensor, s: Tensor, gamma: Tensor, moved: MovedToken) -> AttentionEffects:
    """The change at queries that attend to the moved position, where one logit moves."""
    example, slot = moved.example, moved.slot
    S, mu = without_each(s, gamma)

    def to_moved(table: Tensor) -> Tensor:
        return table[example, :, :, slot]  # [n, head, query slot]

    is_other = torch.arange(s.shape[2], device=slot.device) != slot[:, None]
    looks = to_moved(pattern.visible.expand_as(s)) & is_other[:, None]
    s_new = pattern.score((pattern.query[example] * moved.key[:, :, None]).sum(-1))
    p, p_new = torch.sigmoid(to_moved(s) - to_moved(S)), torch.sigmoid(s_new - to_moved(S))
    gamma_old, gamma_new = to_moved(gamma), (gradient[example] * moved.value[:, :, None]).sum(-1)

    # p' (gamma' - mu) - p (gamma - mu)
    before = p * (gamma_old - to_moved(mu))
    held = torch.where(looks, p_new * (gamma_old - to_moved(mu)) - before, 0.0).sum((1, 2))
    free = torch.where(looks, p_new * (gamma_new - to_moved(mu)) - before, 0.0).sum((1, 2))
    return AttentionEffects(held, free)


def _own_query(
    pattern: Pattern, gradient: Tensor, s: Tensor, gamma: Tensor, moved: MovedToken
) -> tuple[Tensor, Tensor, Tensor]:
    """sum over k of p_k gamma_k [n] at the moved position's own query: before, with its value held, with it moved.

    All its logits move with the query, and the one to itself with the key too.
    """
    example, slot = moved.example, moved.slot
    each = torch.arange(len(slot), device=slot.device)
    own_gamma = gamma[example, :, slot]  # [n, head, key slot]
    before = (s[example, :, slot].softmax(-1) * own_gamma).sum((1, 2))

    key = pattern.key[example]
    key[each, :, slot] = moved.key
    visible = pattern.visible.expand_as(s)[example, :, slot]
    s_new = pattern.score((moved.query[:, :, None] * key).sum(-1)).masked_fill(~visible, -torch.inf)
    p_new = s_new.softmax(-1)

    gamma_new = own_gamma.clone()
    gamma_new[each, :, slot] = (gradient[example, :, slot] * moved.value).sum(-1)
    return before, (p_new * own_gamma).sum((1, 2)), (p_new * gamma_new).sum((1, 2))


def without_each(s: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """S and mu of every key, for logits s and values gamma [..., keys].

    Subtracting a key from the sum is well conditioned if the key has at most half of the weight. A row has at
    most one key with more, and for this one a softmax without it is computed. So the result is exact even on
    saturated rows, where it is needed most.
    """
    p = s.softmax(-1)
    total, mean = s.logsumexp(-1, keepdim=True), (p * gamma).sum(-1, keepdim=True)

    # the heaviest key: a softmax without it
    heaviest = s.argmax(-1, keepdim=True)
    others = s.scatter(-1, heaviest, -torch.inf)
    others_p = others.softmax(-1).nan_to_num(0.0)
    is_heaviest = torch.zeros_like(s, dtype=torch.bool).scatter(-1, heaviest, True)

    # all others: subtracted from the sums
    p = p.masked_fill(is_heaviest, 0.0)
    S = torch.where(is_heaviest, others.logsumexp(-1, keepdim=True), total + torch.log1p(-p))
    mu = torch.where(is_heaviest, (others_p * gamma).sum(-1, keepdim=True), (mean - p * gamma) / (1 - p))
    return S, mu


def key_effect(s: Tensor, gamma: Tensor, change: Tensor) -> Tensor:
    """The effect on the sum over k of p_k gamma_k of moving each logit alone by `change` [..., keys].

    This is the closed form of the key fix of AtP*, equal to a new softmax for every key.
    """
    S, mu = without_each(s, gamma)
    moved = torch.sigmoid(s - S + change) - torch.sigmoid(s - S)
    return torch.where(torch.isfinite(s), moved * (gamma - mu), torch.zeros_like(gamma))
