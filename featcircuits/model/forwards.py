"""Whether hooks run: no module is compiled, and every forward is the one that was there when the model was loaded.

A compiled module may leave out hooks that were put on after it was compiled, or run old ones. A forward
that was put in place of a module's own may compute the inner modules' work by itself, so that their hooks
never run. Both would give numbers that look right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from featcircuits.errors import InputError


def check_not_compiled(model: nn.Module) -> None:
    """Raise `InputError` naming the first module that is compiled, scripted, or has a compiled method."""
    for name, module in model.named_modules():
        if (what := _compiled(module)) is not None:
            where = f"module {name!r}" if name else f"the model ({type(model).__name__})"
            raise InputError(
                f"{where} is compiled ({what}) and would ignore hooks; load the model without torch.compile or "
                "torch.jit, and pass it as it was before"
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
    """What torch.compile makes of a function keeps the function itself."""
    return callable(value) and not isinstance(value, nn.Module) and hasattr(value, "_torchdynamo_orig_callable")


def replaced_forwards(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of modules whose forward is not their class's; those that accelerate wraps are its hooks alone."""
    for name, module in model.named_modules():
        if "forward" in vars(module) and not hasattr(module, "_hf_hook"):
            yield name, module


@dataclass(frozen=True, eq=False)
class Module:
    """A module as it was."""

    path: str
    module: nn.Module
    children: Mapping[str, nn.Module | None]
    forward: Callable[..., Any] | None
    """The one that stands in place of its class's, if any."""
    of_class: Callable[..., Any]

    def change(self) -> str | None:
        """What is different now; None where nothing is."""
        module = self.module
        if module._compiled_call_impl is not None:
            return "it was compiled"
        if module.__dict__.get("forward") is not self.forward or type(module).forward is not self.of_class:
            return "its forward was replaced"
        if module._modules != self.children:
            return "modules in it were replaced"
        return None


def as_it_is(model: nn.Module) -> tuple[Module, ...]:
    """What `check_unchanged` compares the model with later."""
    return tuple(
        Module(path, module, dict(module._modules), vars(module).get("forward"), type(module).forward)
        for path, module in model.named_modules()
    )


def check_unchanged(modules: tuple[Module, ...]) -> None:
    """Raise `InputError` naming the first module that is no longer what it was: no check has tried it as it is now."""
    for each in modules:
        if (change := each.change()) is not None:
            raise InputError(
                f"the model was changed after it was loaded: module {each.path or type(each.module).__name__!r}: "
                f"{change}. Call fc.load with the changed model, so that it is checked as it is now"
            )
