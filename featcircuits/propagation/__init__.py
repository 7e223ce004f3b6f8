"""Propagation rules: what a backward pass of the unmodified model brings to a node.

Relevance patching (Rezaei Jafari et al. 2025) puts LRP rules in place of local gradients. A rule is
a set of hooks; forward values never change, to the last bit, in any dtype and with any attention
kernel, because every module's own output goes on. A new rule is a function and a row of `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from featcircuits.errors import InputError
from featcircuits.models import Architecture, architecture_of
from featcircuits.propagation.attention import ah_rule
from featcircuits.propagation.mlps import exact_identity_rule, half_rule, identity_rule
from featcircuits.propagation.norms import ln_rule, qk_norm_rule

__all__ = ["RULES", "RULE_SETS", "propagation", "rule_names"]

Rule = Callable[[Any, Architecture], Iterator[RemovableHandle]]

RULES: Mapping[str, Rule] = {
    "ln": ln_rule,
    "identity": identity_rule,
    "identity_exact": exact_identity_rule,
    "half": half_rule,
    "ah": ah_rule,
    "qk_norms": qk_norm_rule,
}
RULE_SETS: Mapping[str, tuple[str, ...]] = {
    "default": ("ln", "identity", "half"),
    "with_ah": ("ln", "identity", "half", "ah"),
    "gradient": (),
}
"""`default` is what the RelP paper's code runs; with `gradient` RelP is AtP."""


def rule_names(rules: str | Iterable[str]) -> tuple[str, ...]:
    """A set's name, one rule's, or several ("ln+half", or a sequence) as rule names."""
    if isinstance(rules, str):
        rules = RULE_SETS.get(rules, rules.split("+"))
    names = tuple(rules)
    for name in names:
        if name not in RULES:
            raise InputError(
                f"unknown propagation rule {name!r}; rules: {', '.join(RULES)} (joined by +), sets: "
                f"{', '.join(RULE_SETS)}"
            )
    if {"identity", "identity_exact"} <= set(names):
        raise InputError("rules 'identity' and 'identity_exact' exclude each other")
    return names


@contextmanager
def propagation(
    model: Any, rules: str | Iterable[str] = "default", architecture: Architecture | None = None
) -> Iterator[None]:
    """Backward passes inside this context follow the rules; nothing stays on the model afterwards.

    Forward and backward both belong inside. Raises `InputError` for unknown rules, compiled
    modules (they ignore hooks) and modules that a rule does not know.
    """
    names = rule_names(rules)
    architecture = architecture or architecture_of(model)
    if names:
        _check_not_compiled(model)
    with ExitStack() as hooks:
        for name in names:
            for handle in RULES[name](model, architecture):
                hooks.callback(handle.remove)
        yield


def _check_not_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule":
            raise InputError(
                f"module {name or type(model).__name__!r} is compiled and would ignore the propagation rules; "
                "use the model as it was before torch.compile"
            )
