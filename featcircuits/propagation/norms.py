"""LN-rule: a norm's scale is held fixed, so that the norm passes gradients like a linear map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture
from featcircuits.model.placement import device_of, in_memory
from featcircuits.propagation.carry import carry, propagates


class Form(NamedTuple):
    """The formula of a norm: (x - its mean, if `centred`) / root mean square * gain + bias."""

    centred: bool
    from_one: bool
    """Whether the stored weight is the gain minus 1 (as in Gemma)."""

    def centre(self, x: Tensor) -> Tensor:
        """x minus its mean if `centred`, else x."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, norm: nn.Module, x: Tensor) -> Tensor:
        """1 / root mean square of an x that is already centred."""
        eps = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 0.0)
        return (x.square().mean(-1, keepdim=True) + eps).rsqrt()

    def gained(self, norm: Any, x: Tensor) -> Tensor:
        """x times the gain."""
        return x * (self.from_one + wide(norm.weight.detach()))

    def finish(self, norm: Any, x: Tensor) -> Tensor:
        """x times the gain, plus the bias; offloaded weights are loaded for it."""
        x = self.gained(norm, x)
        bias = getattr(norm, "bias", None) if self.centred else None
        return x if bias is None else x + wide(bias.detach())

    def held(self, norm: nn.Module, x: Tensor) -> Tensor:
        """The norm's output with the scale held fixed, so that it is linear in x."""
        x = self.centre(x)
        return self.finish(norm, x * self.scale(norm, x.detach()))


FORMS = (Form(True, False), Form(False, False), Form(False, True))
"""LayerNorm, RMSNorm, and Gemma's."""


def ln_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """Every norm on the residual path is linear with its scale held fixed, post-norms and the final norm included."""
    yield from map(_held, architecture.norms(model))


def qk_norm_rule(model: Any, architecture: Architecture) -> Iterator[RemovableHandle]:
    """The norms of queries and keys are linear with their scale held fixed; by default they keep their gradient."""
    yield from map(_held, architecture.qk_norms(model))


def _held(norm: nn.Module) -> RemovableHandle:
    form = form_of(norm)

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not propagates(args[0]):
            return None
        with in_memory(module):
            return carry(output, form.held(module, wide(args[0])))

    return norm.register_forward_hook(hook)


def form_of(norm: nn.Module) -> Form:
    """The form of a norm, found by trying it, since a class name says nothing about the gain."""
    weight = getattr(norm, "weight", None)
    if isinstance(weight, Tensor):
        generator = torch.Generator().manual_seed(0)
        probe = (0.5 + torch.randn(4, weight.shape[-1], generator=generator)).to(device_of(norm), weight.dtype)
        tolerance = 0.02 if weight.dtype in (torch.bfloat16, torch.float16) else 1e-4
        with torch.no_grad():
            own = wide(norm(probe))
            with in_memory(norm):
                for form in FORMS:
                    if torch.allclose(form.held(norm, wide(probe)), own, rtol=tolerance, atol=tolerance):
                        return form
    raise InputError(f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm; the LN-rule does not know it")
