"""AH-rule: the attention pattern is held; what arrives at an attention goes to its values alone.

The gradient is stopped at queries and keys rather than at the pattern: the same, and independent
of the attention kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcircuits.models import Architecture, Fused


def ah_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """Separate projections are stopped whole, fused ones in their columns of queries and keys."""
    where, config = architecture.family.queries_keys, model.config.get_text_config()
    for layer in architecture.layers(model):
        if isinstance(where, Fused):
            yield layer.get_submodule(where.module).register_forward_hook(_stop_all_but(where.values(config)))
        else:
            yield from (layer.get_submodule(name).register_forward_hook(_stop) for name in where)


def _stop(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.detach()


def _stop_all_but(kept: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.where(kept.to(output.device), output, output.detach())

    return hook
