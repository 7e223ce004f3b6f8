"""The inside of an attention: how it combines queries, keys and values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture, OwnAttention

Around = Callable[..., tuple[Tensor, Any]]
"""(kernel, module, query, key, value, mask, scaling=, softcap=, ...) -> (output [row, slot, head, width], weights)."""


@contextmanager
def around_attention(model: Any, architecture: Architecture, around: Around) -> Iterator[None]:
    """Every attention of the model goes through `around`, which gets the model's own kernel.

    Raises `InputError` if no function can be put around the attention, or if it hides its mask
    (flash and flex attention).
    """
    if (reason := why_closed(model, architecture)) is not None:
        raise InputError(reason)
    own = architecture.family.attention
    with ExitStack() as stack:
        if own is None:
            stack.enter_context(_around_kernel(model, around))
        else:
            for layer in architecture.layers(model):
                stack.enter_context(as_method(layer.get_submodule(own.module), own, around))
        yield


@contextmanager
def registered(name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """A function in transformers' registry of attention functions; the name's earlier entry is restored afterwards."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kernels = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = kernels.get(name)
    try:
        kernels[name] = attend
        yield
    finally:
        if before is None:
            kernels.pop(name, None)
        else:
            kernels[name] = before


@contextmanager
def _around_kernel(model: Any, around: Around) -> Iterator[None]:
    """`around` in transformers' registry, under the name of the kernel that the model uses."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = model.config.get_text_config()._attn_implementation
    kernel = ALL_ATTENTION_FUNCTIONS.get(name)

    def stand_in(module: Any, *args: Any, **settings: Any) -> tuple[Tensor, Any]:
        return around(kernel or _eager_kernel(module), module, *args, **settings)

    with registered(name, stand_in):
        yield


def _eager_kernel(attention: nn.Module) -> Any:
    """The eager kernel, which is not in the registry but in the file of the attention's class or of a base class."""
    files = (vars(sys.modules[each.__module__]) for each in type(attention).__mro__)
    return next(file["eager_attention_forward"] for file in files if "eager_attention_forward" in file)


@contextmanager
def as_method(module: nn.Module, own: OwnAttention, around: Around) -> Iterator[None]:
    """`around` in place of the method that computes attention, on this instance; masks arrive as numbers to add."""
    before, replaced = getattr(module, own.method), vars(module).get(own.method)

    def method(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        def kernel(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Any]:
            output, weights = before(query, key, value, mask)
            return output.transpose(1, 2), weights

        open_to = torch.zeros((), dtype=query.dtype, device=query.device) if mask is None else mask
        hidden = torch.finfo(query.dtype).min
        whole = open_to.masked_fill(~own.visible(module, query.shape[2]), hidden)
        output, weights = around(kernel, module, query, key, value, whole, scaling=own.scale)
        return output.transpose(1, 2), weights

    setattr(module, own.method, method)
    try:
        yield
    finally:
        if replaced is None:
            delattr(module, own.method)
        else:
            setattr(module, own.method, replaced)


def why_closed(model: Any, architecture: Architecture) -> str | None:
    """The reason why no function can be put around the model's attention; None if one can."""
    config, own = model.config.get_text_config(), architecture.family.attention
    kernel = str(config._attn_implementation)
    if own is None and not model._supports_attention_backend:
        return (
            f"{type(model).__name__} computes attention by itself and not by transformers' attention functions, and "
            "cannot be opened; its family's row needs `attention` (docs/howto/model-family.md)"
        )
    reordered = kernel == "eager" and getattr(config, "reorder_and_upcast_attn", False)
    if reordered or "flash" in kernel or "flex" in kernel:
        return (
            f"attention implementation {kernel!r}{' with reorder_and_upcast_attn' if reordered else ''} cannot be "
            "opened; load the model with attn_implementation='sdpa' or 'eager'"
        )
    return None


def per_head(x: Tensor, heads: int) -> Tensor:
    """Keys or values [row, group, slot, width], repeated for the query heads of each group."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


@dataclass(frozen=True, eq=False)
class Pattern:
    """One layer's attention in one run: [example, head, slot, ...], keys and values per head."""

    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor
    """Which keys a query may attend to [example, 1, slot, slot]."""
    scale: float
    cap: float | None

    @classmethod
    def of(
        cls, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
    ) -> Pattern:
        """The pattern from the arguments of transformers' attention functions."""
        slots, heads = query.shape[2], query.shape[1]
        if mask is None:
            visible = torch.ones(1, 1, slots, slots, dtype=torch.bool, device=query.device).tril()
        else:
            visible = mask if mask.dtype == torch.bool else mask == 0
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        key, value = per_head(key, heads), per_head(value, heads)
        return cls(query, key, value, visible[..., :slots], scale, settings.get("softcap"))

    def score(self, product: Tensor) -> Tensor:
        """The scaled and capped logits of products of queries and keys."""
        scaled = product * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def logits(self) -> Tensor:
        """The logits [example, head, query slot, key slot]; -inf where a key is not visible."""
        product = wide(self.query) @ wide(self.key).transpose(-1, -2)
        return self.score(product).masked_fill(~self.visible, -torch.inf)

    def output(self) -> Tensor:
        """The output of the heads [example, slot, head, width]."""
        # a row without a visible key is padding, where softmax would give NaN
        weights = self.logits().softmax(-1).nan_to_num(0.0).to(self.value.dtype)
        return (weights @ self.value).transpose(1, 2)

    def detached(self) -> Pattern:
        """The same without gradients."""
        query, key, value = (tensor.detach() for tensor in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value)

    def widened(self) -> Pattern:
        """The same in float32 or wider."""
        query, key, value = (wide(tensor) for tensor in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value)
