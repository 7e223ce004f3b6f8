"""Attention laid open: queries, keys, values and patterns of any model that transformers dispatches.

While `attending` holds, every attention of the model goes through a given function in place of its
kernel. `Pattern` has the finite change of attention when one position's query, key and value move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from featcircuits.errors import InputError
from featcircuits.models import Architecture, OwnAttention, architecture_of
from featcircuits.states import precision

Attend = Callable[..., tuple[Tensor, None]]
"""(module, query, key, value, mask, scaling=, softcap=, ...) -> (output [row, slot, head, width], None)."""


@contextmanager
def attending(model: Any, attend: Attend, architecture: Architecture | None = None) -> Iterator[None]:
    """Use `attend` as the model's attention; the model's own choice is put back afterwards.

    Masks arrive as numbers to be added. Raises `InputError` for attention that no function can replace.
    """
    architecture = architecture or architecture_of(model)
    own = architecture.family.attention
    if own is None:
        with _as_eager_kernel(model, attend):
            yield
        return
    chosen = model.config._attn_implementation
    if chosen != "eager":
        raise InputError(
            f"attention of family {architecture.model_type!r} cannot be laid open while the model runs {chosen!r}, as "
            "atp-qk, atp-star and atp-hop1 need; load the model with attn_implementation='eager'"
        )
    with ExitStack() as methods:
        for layer in architecture.layers(model):
            methods.enter_context(_as_method(layer.get_submodule(own.module), own, attend))
        yield


@contextmanager
def _as_eager_kernel(model: Any, attend: Attend) -> Iterator[None]:
    """The function stands in for the "eager" kernel of transformers' registry."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if not model._supports_attention_backend:
        raise InputError(
            f"{type(model).__name__} computes attention by itself and not by transformers' attention functions: "
            "atp-qk, atp-star and atp-hop1 cannot lay it open; its family's row needs `attention` "
            "(docs/howto/model-family.md)"
        )
    config, kernels = model.config.get_text_config(), ALL_ATTENTION_FUNCTIONS._local_mapping
    chosen, stand_in = config._attn_implementation, kernels.get("eager")
    try:
        config._attn_implementation = "eager"
        kernels["eager"] = attend
        yield
    finally:
        config._attn_implementation = chosen
        if stand_in is None:
            kernels.pop("eager", None)
        else:
            kernels["eager"] = stand_in


@contextmanager
def _as_method(module: nn.Module, own: OwnAttention, attend: Attend) -> Iterator[None]:
    """The function stands in for the method on this instance."""

    def method(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        hidden = torch.finfo(query.dtype).min
        open_to = torch.zeros((), dtype=query.dtype, device=query.device) if mask is None else mask
        mask = open_to.masked_fill(~own.visible(module, query.shape[2]), hidden)
        output, _ = attend(module, query, key, value, mask, scaling=own.scale)
        return output.transpose(1, 2), None

    setattr(module, own.method, method)
    try:
        yield
    finally:
        delattr(module, own.method)


def per_head(x: Tensor, heads: int) -> Tensor:
    """Keys or values [row, group, slot, width] repeated for the query heads of each group."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


@dataclass(frozen=True, eq=False)
class Pattern:
    """One layer's attention in the clean run: [example, head, slot, ...], keys and values per head."""

    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor
    """[example, 1, slot, slot]: which keys a query may look at."""
    scale: float
    cap: float | None

    @classmethod
    def of(
        cls, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
    ) -> Pattern:
        """From the arguments of transformers' attention functions."""
        slots, heads = query.shape[2], query.shape[1]
        if mask is None:
            visible = torch.ones(1, 1, slots, slots, dtype=torch.bool, device=query.device).tril()
        else:
            visible = mask if mask.dtype == torch.bool else mask == 0
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        key, value = per_head(key, heads), per_head(value, heads)
        return cls(query, key, value, visible[..., :slots], scale, settings.get("softcap"))

    def score(self, product: Tensor) -> Tensor:
        """Scaled and capped logits from products of queries and keys."""
        scaled = product * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def logits(self) -> Tensor:
        """[example, head, query slot, key slot]; -inf where a key is not visible."""
        wide = precision(self.query.dtype)
        product = self.query.to(wide) @ self.key.to(wide).transpose(-1, -2)
        return self.score(product).masked_fill(~self.visible, -torch.inf)

    def output(self) -> Tensor:
        """What the heads write: [example, slot, head, width]."""
        # a row without any visible key is padding, where softmax would give NaN
        weights = self.logits().softmax(-1).nan_to_num(0.0).to(self.value.dtype)
        return (weights @ self.value).transpose(1, 2)

    def detached(self) -> Pattern:
        query, key, value = (tensor.detach() for tensor in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value)


def without_each(logits: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """For every key: the others' logsumexp, and the mean of `gamma` under their softmax.

    Shapes [..., keys]. Subtracting a key from the sum is well conditioned where it has at most half
    of the weight; the one key of a row that may have more is left out of a softmax of its own. So
    the result is exact on saturated rows too, which is where it is needed.
    """
    weights = logits.softmax(-1)
    total, mean = logits.logsumexp(-1, keepdim=True), (weights * gamma).sum(-1, keepdim=True)
    best = logits.argmax(-1, keepdim=True)
    rest = logits.scatter(-1, best, -torch.inf)
    rest_weights = rest.softmax(-1).nan_to_num(0.0)
    is_best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best, True)
    share = weights.masked_fill(is_best, 0.0)
    others_total = torch.where(is_best, rest.logsumexp(-1, keepdim=True), total + torch.log1p(-share))
    others_mean = torch.where(
        is_best, (rest_weights * gamma).sum(-1, keepdim=True), (mean - share * gamma) / (1 - share)
    )
    return others_total, others_mean


def key_effect(logits: Tensor, gamma: Tensor, change: Tensor) -> Tensor:
    """Effect on `(softmax(logits) * gamma).sum()` of moving each logit alone by `change`: [..., keys].

    The closed form of the key fix of AtP* (Kramar et al. 2024, section 3.1.1) in log-odds, equal to
    a softmax computed anew for every key.
    """
    others_total, others_mean = without_each(logits, gamma)
    odds = logits - others_total
    moved = torch.sigmoid(odds + change) - torch.sigmoid(odds)
    return torch.where(torch.isfinite(logits), moved * (gamma - others_mean), torch.zeros_like(gamma))
