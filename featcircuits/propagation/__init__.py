"""Propagation rules: what a backward pass of the unmodified model brings to a node.

Relevance patching (Rezaei Jafari et al. 2025) puts LRP rules in place of local gradients. A rule is
a set of hooks; forward values never change, to the last bit, in any dtype and with any attention
kernel, because every module's own output goes on. A new rule is a function and a row of `RULES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture, architecture_of
from featcircuits.propagation.attention import ah_rule, matmul_rule, soft_rule
from featcircuits.propagation.mlps import exact_identity_rule, half_rule, identity_rule
from featcircuits.propagation.norms import ln_rule, qk_norm_rule
from featcircuits.propagation.rules import Rule, applied
from featcircuits.propagation.secant import secants

__all__ = ["RULES", "RULE_SETS", "propagation", "rule_names", "secants"]

RULES: Mapping[str, Rule] = {
    "ln": ln_rule,
    "identity": identity_rule,
    "identity_exact": exact_identity_rule,
    "half": half_rule,
    "ah": ah_rule,
    "qk_norms": qk_norm_rule,
    "soft": soft_rule,
    "matmul": matmul_rule,
}
"""In the order in which they are put on: what changes an attention's inputs goes around what replaces its gradient."""

RULE_SETS: Mapping[str, tuple[str, ...]] = {
    "default": ("ln", "identity", "half"),
    "with_ah": ("ln", "identity", "half", "ah"),
    "gim": ("ln", "soft", "matmul"),
    "attnlrp": ("ln", "qk_norms", "identity", "half", "matmul"),
    "gradient": (),
}
"""`default` is what the RelP paper's code runs; with `gradient` RelP is AtP.

`gim`: Gradient Interaction Modifications (Edin et al. 2025). `attnlrp`: AttnLRP (Achtibat et al. 2024); its
rule for the softmax is the ordinary gradient (eq. 13: a Taylor expansion at the run's own scores).
"""


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
    chosen = [rule for name, rule in RULES.items() if name in names]
    with applied(model, architecture or architecture_of(model), chosen):
        yield
