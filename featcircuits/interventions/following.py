"""Which tokens a forward pass of somebody else computes: whole prompts, or the next ones after what a cache holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from featcircuits.interventions.where import Frame


@contextmanager
def following(model: nn.Module, prompts: Frame | None = None) -> Iterator[Callable[[], Frame]]:
    """A context in which a function returns the frame of the model's running forward pass.

    `prompts`: the prompts, if they are known; several rows in turn may belong to each (beams). If they are not, all
    tokens of a pass without a cache are a prompt, and those after a filled cache are generated.
    """
    current: list[Frame] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        current[:] = [_frame(args, kwargs, prompts, current[0] if current else None)]

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield lambda: current[0]
    finally:
        handle.remove()


def _frame(args: tuple[Any, ...], kwargs: Mapping[str, Any], prompts: Frame | None, before: Frame | None) -> Frame:
    given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    inputs = next(tensor for tensor in given if tensor is not None)
    rows, slots = inputs.shape[:2]
    cache = kwargs.get("past_key_values")
    cached = 0 if cache is None else int(cache.get_seq_length())
    mask = _whole_mask(kwargs.get("attention_mask"), inputs, cached + slots)
    real = mask[:, cached:] > 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, cached:]
    if prompts is None and cached and before is not None:
        prompts = before
    if prompts is not None:
        turns = torch.arange(rows, device=mask.device) * len(prompts.lengths) // rows
        roles = [prompts.roles[turn] for turn in turns.tolist()] if prompts.roles else ()
        return Frame(positions, real, prompts.lengths.to(mask.device)[turns], roles)
    return Frame(positions, real, mask[:, :cached].sum(-1) if cached else mask.sum(-1))


def _whole_mask(given: Any, inputs: Tensor, length: int) -> Tensor:
    """Which tokens there are, those in the cache included [row, length]; without a mask all."""
    if isinstance(given, Tensor) and given.ndim == 2 and given.shape[1] == length:
        return given.long()
    return torch.ones(inputs.shape[0], length, dtype=torch.long, device=inputs.device)
