"""Access to the queries, keys, values and patterns of any model whose attention transformers dispatches.

Inside `attending`, every attention of the model goes through a given function in place of its
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture, architecture_of
from featcircuits.propagation.attention_kernels import Pattern, as_method, per_head, registered

__all__ = ["Pattern", "attending", "per_head"]

Attend = Callable[..., tuple[Tensor, None]]
"""(module, query, key, value, mask, scaling=, softcap=, ...) -> (output [row, slot, head, width], None)."""


@contextmanager
def attending(model: Any, attend: Attend, architecture: Architecture | None = None) -> Iterator[None]:
    """Use `attend` as the model's attention, and restore the model's own afterwards.

    Masks arrive as numbers to add. Raises `InputError` for attention that no function can replace.
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
            f"attention of family {architecture.model_type!r} cannot be opened while the model runs {chosen!r}, as "
            "atp-qk, atp-star and atp-hop1 need; load the model with attn_implementation='eager'"
        )
    with ExitStack() as methods:
        for layer in architecture.layers(model):
            methods.enter_context(
                as_method(layer.get_submodule(own.module), own, lambda _, *args, **rest: attend(*args, **rest))
            )
        yield


@contextmanager
def _as_eager_kernel(model: Any, attend: Attend) -> Iterator[None]:
    """Use the function in place of the "eager" kernel of transformers' registry."""
    if not model._supports_attention_backend:
        raise InputError(
            f"{type(model).__name__} computes attention by itself and not by transformers' attention functions: "
            "atp-qk, atp-star and atp-hop1 cannot open it; its family's row needs `attention` "
            "(docs/howto/model-family.md)"
        )
    config = model.config.get_text_config()
    chosen = config._attn_implementation
    try:
        config._attn_implementation = "eager"
        with registered("eager", attend):
            yield
    finally:
        config._attn_implementation = chosen
