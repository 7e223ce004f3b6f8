"""Propagation rules: how a backward pass of the unmodified model carries gradients to a node.

Relevance patching (Rezaei Jafari et al. 2025) replaces local gradients by LRP rules. A rule is
a set of hooks. Forward values never change by a single bit, in any dtype and with any attention
kernel, because every module passes on its own output. A new rule is a function and a row of `RULES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture, architecture_of
from featcircuits.propagation.attention import ah_rule, matmul_rule, soft_rule
from featcircuits.propagation.features import features_rule
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
    "features": features_rule,
}
"""In the order in which they are applied: rules that change an attention's inputs go around those for its gradient."""

RULE_SETS: Mapping[str, tuple[str, ...]] = {
    "default": ("ln", "identity", "half"),
    "with_ah": ("ln", "identity", "half", "ah"),
    "gim": ("ln", "half", "soft", "matmul"),
    "attnlrp": ("ln", "qk_norms", "identity", "half", "matmul"),
    "replacement": ("ln", "ah", "features"),
    "gradient": (),
}
"""`default` is the set in the RelP paper's code; with `gradient` RelP equals AtP.

`gim`: Gradient Interaction Modifications (Edin et al. 2025), as its authors' code is since August 2026: norms frozen,
softmax at temperature 2, and the factors of products, gated MLPs' among them, with a share of their gradient each.
`attnlrp`: AttnLRP (Achtibat et al. 2024); its rule for the softmax is the ordinary gradient (eq. 13: a Taylor expansion
at the run's own scores).
`replacement`: the linear model of attribution graphs (Ameisen et al. 2025), for transcoders at every MLP.
"""


def rule_names(rules: str | Iterable[str]) -> tuple[str, ...]:
    """The names of the rules in a set, or of one rule or several ("ln+half", or a sequence)."""
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
    model: Any,
    rules: str | Iterable[str] = "default",
    architecture: Architecture | None = None,
    *,
    features: Rule = features_rule,
) -> Iterator[None]:
    """A context in which backward passes follow the rules; it leaves nothing on the model.

    Run both the forward and the backward pass inside. `features`: the rule of that name, which belongs to one run and
    its dictionaries (featcircuits.estimators.replacement). Raises `InputError` for unknown rules, compiled
    modules (they ignore hooks) and modules that a rule does not know.
    """
    names = rule_names(rules)
    table = {**RULES, "features": features}
    chosen = [rule for name, rule in table.items() if name in names]
    with applied(model, architecture or architecture_of(model), chosen):
        yield
