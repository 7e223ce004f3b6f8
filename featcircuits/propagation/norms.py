"""LN-rule: a norm's scale is held, so that it passes on what a linear map would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcircuits.errors import InputError
from featcircuits.models import Architecture
from featcircuits.models.placement import device_of, in_memory
from featcircuits.propagation.carry import carry, propagates, wide

Linear = Callable[[Any, Tensor], Tensor]
"""(norm, x) -> its output, linear in x: the scale is the clean run's."""


def ln_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """Every norm on the residual path, post-norms and the final one included."""
    yield from map(_held, architecture.norms(model))


def qk_norm_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """The norms of queries and keys; by default they keep their gradient."""
    yield from map(_held, architecture.qk_norms(model))


def _held(norm: nn.Module) -> RemovableHandle:
    linear = form_of(norm)

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not propagates(args[0]):
            return None
        with in_memory(module):
            return carry(output, linear(module, wide(args[0])))

    return norm.register_forward_hook(hook)


def _layer_norm(norm: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred * (x.var(-1, keepdim=True, unbiased=False) + _eps(norm)).rsqrt().detach()
    scaled = scaled if norm.weight is None else scaled * wide(norm.weight.detach())
    return scaled if getattr(norm, "bias", None) is None else scaled + wide(norm.bias.detach())


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    return _rms(norm, x) * wide(norm.weight.detach())


def _rms_norm_from_one(norm: Any, x: Tensor) -> Tensor:
    """Gemma's: the stored weight is the gain's distance from 1."""
    return _rms(norm, x) * (1 + wide(norm.weight.detach()))


def _rms(norm: Any, x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + _eps(norm)).rsqrt().detach()


def _eps(norm: nn.Module) -> float:
    return getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 0.0)


FORMS: tuple[Linear, ...] = (_layer_norm, _rms_norm, _rms_norm_from_one)


def form_of(norm: nn.Module) -> Linear:
    """Which form a norm has, by trying it: a class name says nothing about the gain."""
    weight = getattr(norm, "weight", None)
    if isinstance(weight, Tensor):
        generator = torch.Generator().manual_seed(0)
        probe = (0.5 + torch.randn(4, weight.shape[-1], generator=generator)).to(device_of(norm), weight.dtype)
        tolerance = 0.02 if weight.dtype in (torch.bfloat16, torch.float16) else 1e-4
        with torch.no_grad():
            own = wide(norm(probe))
            with in_memory(norm):
                for form in FORMS:
                    if torch.allclose(form(norm, wide(probe)), own, rtol=tolerance, atol=tolerance):
                        return form
    raise InputError(f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm; the LN-rule does not know it")
