"""The clean run of a batch with its graph cut at every site and the patterns of its attentions held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.effects.cut import Cut, cut_forward
from featcircuits.propagation.attention_kernels import Pattern, around_attention, per_head
from featcircuits.propagation.carry import carry
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States


class Opened(NamedTuple):
    """A cut run, and for each layer what its attention did."""

    cut: Cut
    patterns: list[Tensor]
    """[example, head, query slot, key slot]"""
    values: list[Tensor]
    """[example, group of heads, slot, width of a head]"""
    heads: list[Tensor]
    """The heads' outputs [example, slot, head, width of a head]."""


def opened(spliced: SplicedModel, states: States, closed: bool) -> Opened:
    """The clean run; values pass their whole gradient, patterns none. `closed`: nothing goes back through attention.

    Raises `InputError` for attention that no function can be put around.
    """
    patterns, values, heads = list[Tensor](), list[Tensor](), list[Tensor]()

    def attend(kernel: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **rest: Any) -> Any:
        output, weights = kernel(module, query, key, value, *args, **rest)
        shares = Pattern.of(module, query, key, value, *args, **rest).detached().logits().softmax(-1).nan_to_num(0.0)
        mixed = (shares @ wide(per_head(value, query.shape[1]))).transpose(1, 2)
        passed = output.detach().requires_grad_() if closed else carry(output, mixed)
        patterns.append(shares)
        values.append(value)
        heads.append(passed)
        return passed, weights

    with around_attention(spliced.model, spliced.architecture, attend):
        return Opened(cut_forward(spliced, states), patterns, values, heads)


def tangents(values: Sequence[Tensor], leaf: Tensor, change: Tensor) -> list[Tensor | None]:
    """How each of `values` moves if `leaf` moves by `change`, to first order; None if it does not.

    The derivative, in the direction of a seed w, of the product w J, which is linear in w.
    """
    moving = [value for value in values if value.requires_grad]
    if not moving:
        return [None] * len(values)
    seeds = [torch.zeros_like(value, requires_grad=True) for value in moving]
    (back,) = torch.autograd.grad(moving, leaf, seeds, create_graph=True, allow_unused=True)
    if back is None:
        return [None] * len(values)
    found = iter(torch.autograd.grad(back, seeds, change.to(back.dtype), retain_graph=True, allow_unused=True))
    return [next(found) if value.requires_grad else None for value in values]
