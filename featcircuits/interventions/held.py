"""Attention patterns and norms' scales held at the values of an unedited run, in later forward passes.

With P and s of the unedited run, an attention's output is o + P (v - v0) and a norm's y + s gain (x - x0), where o, y,
v0 and x0 are of that run too. So nothing changes to the last bit where nothing arrives changed, and what passes is
linear in the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featcircuits.dictionaries.decomposition import wide
from featcircuits.interventions.intervention import ATTENTION, NOTHING
from featcircuits.model.architecture import Architecture
from featcircuits.model.placement import in_memory
from featcircuits.propagation.attention_kernels import Pattern, around_attention, per_head
from featcircuits.propagation.norms import Form, form_of
from featcircuits.propagation.rules import Handle, applied, entered


@contextmanager
def holding(model: Any, architecture: Architecture, held: str) -> Iterator[None]:
    """A context in which every forward pass after the first holds the first one's patterns, and norms if asked.

    All must be of the same prompts. Nothing stays on the model afterwards. Raises `InputError` for compiled modules,
    norms of an unknown form and attention that cannot be opened.
    """
    rules = () if held == NOTHING else (_attention,) if held == ATTENTION else (_attention, _norms)
    with torch.no_grad(), applied(model, architecture, rules):
        yield


class _Attended(NamedTuple):
    """An attention in the first run: output [row, slot, head, width], weights, and values [row, group, slot, width]."""

    output: Tensor
    weights: Tensor
    value: Tensor


def _attention(model: Any, architecture: Architecture) -> Iterator[Handle]:
    kept: dict[nn.Module, _Attended] = {}

    def held(
        kernel: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **settings: Any
    ) -> tuple[Tensor, Any]:
        if module not in kept:
            output, weights = kernel(module, query, key, value, *args, **settings)
            pattern = Pattern.of(module, query, key, value, *args, **settings)
            kept[module] = _Attended(output, pattern.logits().softmax(-1).nan_to_num(0.0), value)
            return output, weights
        before = kept[module]
        change = per_head(wide(value) - wide(before.value), query.shape[1])
        return before.output + (before.weights @ change).transpose(1, 2).to(before.output.dtype), None

    yield entered(around_attention(model, architecture, held))


def _norms(model: Any, architecture: Architecture) -> Iterator[Handle]:
    for norm in architecture.norms(model):
        if not isinstance(norm, nn.Identity):
            yield _norm(norm, form_of(norm))


def _norm(norm: nn.Module, form: Form) -> Handle:
    kept: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not kept:
            kept.append((wide(args[0]), output))
            return None
        x, before = kept[0]
        change = form.centre(wide(args[0]) - x) * form.scale(module, form.centre(x))
        with in_memory(module):
            return before + form.gained(module, change).to(before.dtype)

    return norm.register_forward_hook(hook)
