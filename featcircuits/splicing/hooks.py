"""Hooks on the unmodified model: editing activations, starting at a layer, reading the answers' logits alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from featcircuits.model.architecture import INPUTS, Architecture
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Edit = Callable[[Site, Tensor], Tensor]
"""(site, activation [row, slot, width]) -> the activation to continue with."""


class Start(NamedTuple):
    """The start of a partial forward pass: it skips the layers before `layer`, and `stream` enters `layer`.

    Sites before `layer` are not edited; apply an edit of `resid_{layer-1}` to `stream`.
    """

    layer: int
    stream: Tensor
    """The residual stream that enters `layer` [row, slot, width]."""


@contextmanager
def editing(
    architecture: Architecture, model: PreTrainedModel, device: torch.device, sites: Iterable[Site], edit: Edit
) -> Iterator[None]:
    with ExitStack() as stack:
        for site in sites:
            module = architecture.module(model, site)
            stack.callback(_hooked(module, site, partial(_edited, edit, site, device)).remove)
        yield


def _hooked(module: nn.Module, site: Site, edited: Callable[[Any], Any]) -> RemovableHandle:
    if site.kind in INPUTS:
        return module.register_forward_pre_hook(lambda _, args: edited(args))
    return module.register_forward_hook(lambda _, args, output: edited(output))


def _edited(edit: Edit, site: Site, home: torch.device, value: Any) -> Any:
    """A module's arguments or output with the activation edited; None if it does not change.

    Edits compute on one device, even if the model is spread over several.
    """
    x = value[0] if isinstance(value, tuple) else value
    edited = edit(site, x.to(home))
    if edited is x:
        return None
    edited = edited.to(x.device)
    return (edited, *value[1:]) if isinstance(value, tuple) else edited


@contextmanager
def reading_answers(unembedding: nn.Module, tokens: Tokens) -> Iterator[None]:
    """Pass only the last token of each row to the unembedding, and compute only the wanted logits."""
    slots, wanted = tokens.last, tokens.vocabulary

    def last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return (hidden[torch.arange(len(slots), device=hidden.device), slots.to(hidden.device)][:, None], *args[1:])

    def some(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return logits if wanted is None else logits[..., wanted.to(logits.device)]

    with ExitStack() as stack:
        stack.callback(unembedding.register_forward_pre_hook(last).remove)
        # only a plain linear map can skip the rest; anything else (quantised, offloaded) computes all logits
        if wanted is not None and type(unembedding) is nn.Linear and "forward" not in vars(unembedding):
            ids, bias = wanted.to(unembedding.weight.device), unembedding.bias
            weight, bias = unembedding.weight[ids], None if bias is None else bias[ids]
            unembedding.forward = lambda hidden: linear(hidden, weight, bias)  # type: ignore[method-assign]
            stack.callback(vars(unembedding).pop, "forward")
        else:
            stack.callback(unembedding.register_forward_hook(some).remove)
        yield


@contextmanager
def starting(architecture: Architecture, model: PreTrainedModel, start: Start) -> Iterator[None]:
    """Make the layers before `start.layer` pass on their input, and the last of them the given stream.

    `forward` is replaced on the instances and restored, even if something else (accelerate, a
    hub kernel) had replaced it before.
    """
    skipped, tuples = architecture.layers(model)[: start.layer], architecture.family.tuples

    def pass_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states, None) if tuples else hidden_states

    before = [vars(layer).get("forward") for layer in skipped]
    try:
        for layer in skipped:
            layer.forward = pass_on  # type: ignore[method-assign]
        if skipped:
            skipped[-1].forward = lambda *args, **kwargs: pass_on(start.stream)  # type: ignore[method-assign]
        yield
    finally:
        for layer, forward in zip(skipped, before, strict=True):
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                layer.forward = forward  # type: ignore[method-assign]
