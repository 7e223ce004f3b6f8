"""Node estimators by name: those of `table`, and those made of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from featcircuits.attribution.nodes.blend import Blend
from featcircuits.attribution.nodes.table import STANDALONE, Estimator, NodeMethod, effects_of
from featcircuits.baselines import BASELINES, Baseline
from featcircuits.corruption import Noise
from featcircuits.errors import InputError

__all__ = [
    "METHODS",
    "Estimator",
    "NodeMethod",
    "check_method_baseline",
    "default_method",
    "effects_of",
    "method_named",
    "option_names",
]

METHODS: Mapping[str, Callable[..., Estimator | NodeMethod]] = {**STANDALONE, "blend": Blend}


def default_method(paired: bool, baseline: Baseline | None) -> str:
    """`secant` between the two runs of a pair, `relp` where there is one run: docs/frontier.md says why."""
    return "secant" if paired and baseline in (None, "paired") else "relp"


def option_names(name: str) -> list[str]:
    """A method's options; an unknown name is an `InputError`."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return [field.name for field in fields(METHODS[name])]  # type: ignore[arg-type]


def method_named(name: str, options: Mapping[str, Any]) -> Estimator | NodeMethod:
    """Build a method; an unknown name or option is an `InputError`."""
    known = option_names(name)
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"method {name!r} has no option {unknown[0]!r}; its options: {', '.join(known) or 'none'}")
    return METHODS[name](**options)


def check_method_baseline(name: str, method: Estimator | NodeMethod, baseline: Baseline) -> None:
    """Refuse a baseline that a method which goes between two runs knows no run of."""
    known = getattr(method, "baselines", BASELINES)
    given = "noise" if isinstance(baseline, Noise) else baseline
    if given not in known:
        raise InputError(
            f"method {name!r} goes from the clean to the patched run and needs pairs: baseline {given!r} is not "
            f"one of {', '.join(known)}; use another method for it"
        )
