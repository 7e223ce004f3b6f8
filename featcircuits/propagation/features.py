"""The rule of the local replacement model: at a transcoder, gradients go through its features instead of the MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture
from featcircuits.propagation.rules import Handle

PulledBack = Callable[[Tensor], Tensor]
"""The gradient at what a dictionary reads, given the gradient at what it explains; both [row, slot, width]."""


def features_rule(model: Any, architecture: Architecture) -> Iterator[Handle]:
    """At a transcoder the gradient goes through its active features and its skip, not through the MLP."""
    raise InputError(
        "rule 'features' needs the dictionaries of a run; estimator relp has it (relp:rules=ln+ah+features)"
    )


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, read: Tensor, pulled_back: PulledBack) -> Tensor:
        ctx.pulled_back, ctx.dtype = pulled_back, read.dtype
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.pulled_back(grads[0]).to(ctx.dtype), None


def through(value: Tensor, read: Tensor, pulled_back: PulledBack) -> Tensor:
    """Exactly `value`, whose gradient goes to `read` as `pulled_back` says."""
    return _Through.apply(value.detach(), read, pulled_back)  # type: ignore[return-value]
