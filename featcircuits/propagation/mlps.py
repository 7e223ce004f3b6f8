"""Identity-rule and Half-rule: activations multiply by their ratio, and products pass half to each factor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture
from featcircuits.propagation.carry import carry, propagates

_STABILISER = 1e-6


def identity_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """`act(z) = z * [act(z) / z]` with the ratio held fixed, and z moved away from 0 by 1e-6 as published."""
    yield from (_ratio_held(module, _stabilised) for module in architecture.activations(model))


def exact_identity_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """The Identity-rule with the true ratio, and the slope at 0."""
    yield from (_ratio_held(module, _limit) for module in architecture.activations(model))


def _ratio_held(activation: nn.Module, ratio: Any) -> RemovableHandle:
    if activation(torch.zeros(1)).item() != 0:
        raise InputError(f"{type(activation).__name__}(0) is not 0: the Identity-rule's ratio is not bounded there")

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not propagates(args[0]):
            return None
        z = wide(args[0])
        return carry(output, z * ratio(module, z.detach(), wide(output.detach())))

    return activation.register_forward_hook(hook)


def _stabilised(activation: nn.Module, z: Tensor, value: Tensor) -> Tensor:
    return value / (z + ((z == 0).to(z.dtype) + z.sign()) * _STABILISER)


def _limit(activation: nn.Module, z: Tensor, value: Tensor) -> Tensor:
    with torch.enable_grad():
        zero = torch.zeros(1, dtype=z.dtype, device=z.device, requires_grad=True)
        # the module's forward instead of a call, since this hook is on the call
        (slope,) = torch.autograd.grad(activation.forward(zero).sum(), zero)
    return torch.where(z == 0, slope, value / z.where(z != 0, torch.ones_like(z)))


def half_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """Each factor of a gated product gets half of its gradient; the hook is where the product is read."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        return (carry(args[0], args[0] / 2), *args[1:]) if propagates(args[0]) else None

    yield from (module.register_forward_pre_hook(hook) for module in architecture.products(model))
