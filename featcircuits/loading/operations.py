"""The operations of a forward pass: which module computes each, and whether it is linear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@contextmanager
def called_modules(model: nn.Module) -> Iterator[set[nn.Module]]:
    """The modules that are really called inside the block, not only computed through their weights."""
    called: set[nn.Module] = set()
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(lambda module, args, output: called.add(module)).remove)
        yield called


class Span(NamedTuple):
    """The operations of one call of a module, as a range of autograd's numbers."""

    start: int
    end: int
    path: str


@contextmanager
def module_spans(model: nn.Module) -> Iterator[list[Span]]:
    """The operations of each module inside the block, including those of its inner modules."""
    spans: list[Span] = []
    started: list[int] = []

    def leave(path: str) -> None:
        spans.append(Span(started.pop(), _now(), path))

    with ExitStack() as stack:
        for path, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(lambda *_: started.append(_now())).remove)
            stack.callback(module.register_forward_hook(lambda *_, path=path: leave(path)).remove)
        yield spans


def _now() -> int:
    """The number that autograd gives to the next operation, minus one."""
    with torch.enable_grad():
        node: Any = torch.zeros((), requires_grad=True).view_as(torch.zeros(())).grad_fn
    return node._sequence_nr()


def nonlinear_operations(outcome: Tensor, spans: list[Span]) -> dict[str, str]:
    """Path of a module -> one of its operations that a backward pass from `outcome` meets and that is not linear.

    A linear function stores nothing for its backward pass that depends on its own input; a product stores
    its factors if both depend on the input, tanh its output, clamp its input.
    """
    found: dict[str, str] = {}
    seen: set[Any] = set()
    ahead: list[Any] = [outcome.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if any(isinstance(kept, Tensor) and kept.requires_grad for kept in _kept(node)):
            found.setdefault(_module(node, spans), re.sub(r"Backward\d*$", "", node.name()).lower())
        ahead += [before for before, _ in node.next_functions]
    return found


def _kept(node: Any) -> Iterator[object]:
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        yield from node.saved_tensors
    for name in _kept_names(type(node)):
        value = getattr(node, name)
        yield from value if isinstance(value, tuple) else (value,)


@cache
def _kept_names(kind: type) -> list[str]:
    return [name for name in dir(kind) if name.startswith("_saved_")]


def _module(node: Any, spans: list[Span]) -> str:
    """The innermost module that computes the operation."""
    at = node._sequence_nr()
    return max((span for span in spans if span.start < at <= span.end), default=Span(0, 0, "")).path
