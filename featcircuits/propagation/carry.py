"""A module's own value with another gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, carrier: Tensor) -> Tensor:
        ctx.dtype = carrier.dtype
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0].to(ctx.dtype)


def carry(value: Tensor, carrier: Tensor) -> Tensor:
    """Exactly `value`, in any dtype and from any kernel, but with its whole gradient going to `carrier`."""
    return _Carry.apply(value.detach(), carrier)  # type: ignore[return-value]


def propagates(x: Tensor) -> bool:
    """Whether a backward pass may come through here; if not, a rule has nothing to do."""
    return torch.is_grad_enabled() and x.requires_grad
