"""Checks that hooks run: no module is compiled, and every forward is still the one of when the model was loaded.

A compiled module may skip hooks that were installed after it was compiled, or run old ones. A forward
that replaces a module's own may compute the inner modules' work by itself, so that their hooks
never run. Both would give wrong numbers that look right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from featcircuits.errors import InputError


def check_not_compiled(model: nn.Module) -> None:
    """Raise `InputError` that names the first module that is compiled, scripted, or has a compiled method."""
    for name, module in model.named_modules():
        if (what := _compiled(module)) is not None:
            where = f"module {name!r}" if name else f"the model ({type(model).__name__})"
            raise InputError(
                f"{where} is compiled ({what}) and would ignore hooks; load the model without torch.compile or "
                "torch.jit, and pass it uncompiled"
            )


def _compiled(module: nn.Module) -> str | None:
    if module._compiled_call_impl is not None:
        return "module.compile()"
    if type(module).__name__ == "OptimizedModule":
        return "torch.compile(module)"
    if isinstance(module, torch.jit.ScriptModule):
        return "torch.jit"
    if _is_compiled(type(module).forward):
        return f"torch.compile({type(module).__name__}.forward)"
    return next((f"torch.compile(module.{name})" for name, value in vars(module).items() if _is_compiled(value)), None)


def _is_compiled(value: object) -> bool:
    """Whether torch.compile returned this function, which then holds the original one."""
    return callable(value) and not isinstance(value, nn.Module) and hasattr(value, "_torchdynamo_orig_callable")


def replaced_forwards(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of modules whose forward is not that of their class; wrappers of accelerate do not count."""
    for name, module in model.named_modules():
        if "forward" in vars(module) and not hasattr(module, "_hf_hook"):
            yield name, module


@dataclass(frozen=True, eq=False)
class Module:
    """A module as it was when the model was loaded."""

    path: str
    module: nn.Module
    children: Mapping[str, nn.Module | None]
    forward: Callable[..., Any] | None
    """The forward that replaces that of its class, if any."""
    of_class: Callable[..., Any]

    def change(self) -> str | None:
        """What is different now; None if nothing is."""
        module = self.module
        if module._compiled_call_impl is not None:
            return "it was compiled"
        if module.__dict__.get("forward") is not self.forward or type(module).forward is not self.of_class:
            return "its forward was replaced"
        if module._modules != self.children:
            return "modules in it were replaced"
        return None


def as_it_is(model: nn.Module) -> tuple[Module, ...]:
    """The state of the model's modules, with which `check_unchanged` compares them later."""
    return tuple(
        Module(path, module, dict(module._modules), vars(module).get("forward"), type(module).forward)
        for path, module in model.named_modules()
    )


def check_unchanged(modules: tuple[Module, ...]) -> None:
    """Raise `InputError` that names the first module that has changed since loading, so that no check covers it."""
    for each in modules:
        if (change := each.change()) is not None:
            raise InputError(
                f"the model was changed after it was loaded: module {each.path or type(each.module).__name__!r}: "
                f"{change}. Call fc.load with the changed model, so that it is checked again"
            )
