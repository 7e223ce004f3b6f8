"""Rules for attention: its pattern held fixed, its softmax softened, its products split between their factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcircuits.model.architecture import Architecture, Fused
from featcircuits.propagation.attention_kernels import Pattern, around_attention
from featcircuits.propagation.carry import carry, propagates
from featcircuits.propagation.rules import Handle, entered

_TEMPERATURE = 2.0


def ah_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """AH-rule: the pattern is held fixed, so an attention passes its whole gradient to its values.

    The gradient is stopped at queries and keys rather than at the pattern, which is the same and does not depend
    on the attention kernel. Separate projections are stopped as a whole, fused ones in their columns of
    queries and keys.
    """
    where, config = architecture.family.queries_keys, model.config.get_text_config()
    for layer in architecture.layers(model):
        if isinstance(where, Fused):
            yield layer.get_submodule(where.module).register_forward_hook(_stop_all_but(where.values(config)))
        else:
            yield from (layer.get_submodule(name).register_forward_hook(_stop) for name in where)


def matmul_rule(model: Any, architecture: Architecture) -> Iterator[Handle]:
    """Each factor of a product gets half (AttnLRP's uniform rule): pattern and values, queries and keys."""

    def shared(kernel: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **settings: Any) -> Any:
        if propagates(value):
            query, key, value = carry(query, query / 4), carry(key, key / 4), carry(value, value / 2)
        return kernel(module, query, key, value, *args, **settings)

    yield entered(around_attention(model, architecture, shared))


def soft_rule(model: Any, architecture: Architecture) -> Iterator[Handle]:
    """The softmax passes back its usual s (g - s . g), but with s its output at temperature 2 (GIM)."""

    def softened(kernel: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **rest: Any) -> Any:
        output, weights = kernel(module, query, key, value, *args, **rest)
        if not propagates(value):
            return output, weights
        pattern = Pattern.of(module, query, key, value, *args, **rest).widened()
        logits = pattern.logits()
        soft = (logits.detach() / _TEMPERATURE).softmax(-1).nan_to_num(0.0)
        scores = logits.masked_fill(~pattern.visible, 0.0)
        moves = soft * (scores - (soft * scores).sum(-1, keepdim=True))
        held = logits.detach().softmax(-1).nan_to_num(0.0)
        carrier = held @ pattern.value + moves @ pattern.value.detach()
        return carry(output, carrier.transpose(1, 2)), weights

    yield entered(around_attention(model, architecture, softened))


def _stop(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.detach()


def _stop_all_but(kept: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.where(kept.to(output.device), output, output.detach())

    return hook
