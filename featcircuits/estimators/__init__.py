"""Node estimators by name: those of `table`, and those made of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from featcircuits.errors import InputError, shortened
from featcircuits.estimators.blend import Blend
from featcircuits.estimators.table import STANDALONE, Estimator, NodeMethod, effects_of
from featcircuits.inputs.variants import built, options_of, parse_named
from featcircuits.states.baselines import BASELINES, Baseline
from featcircuits.tasks.corruption import Noise
from featcircuits.tasks.task import Task

__all__ = [
    "METHODS",
    "Estimator",
    "Method",
    "NodeMethod",
    "check_method",
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
    return list(options_of(name, METHODS, "method"))


def method_named(name: str, options: Mapping[str, Any]) -> Estimator | NodeMethod:
    """Build a method; an unknown name or option, or a value that an option cannot have, is an `InputError`."""
    return built(name, METHODS, "method", options)


class Method(NamedTuple):
    """An estimator's name with its options, written `ig` or `ig:steps=5:rule=gauss`."""

    name: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str, further: Mapping[str, Any] | None = None) -> Method:
        """`further`: options beside the method's own, with their defaults; anything unknown is an `InputError`."""
        name, options = parse_named(text, METHODS, "method", further)
        method_named(name, {key: value for key, value in options.items() if key not in (further or {})})
        return cls(name, options)

    def build(self) -> Estimator | NodeMethod:
        return method_named(self.name, self.options)

    def adding(self, options: Mapping[str, Any]) -> Method:
        """With options that were given apart; one that is written already is an `InputError`."""
        if twice := sorted(set(self.options) & set(options)):
            raise InputError(
                f"method '{self}': {twice[0]} is given twice, the other time as {shortened(options[twice[0]])}"
            )
        method = Method(self.name, {**self.options, **options})
        method.build()
        return method

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


def check_method(name: str, method: Estimator | NodeMethod, task: Task, baseline: Baseline) -> None:
    """Refuse what a method needs and the baseline or the task does not have."""
    known = getattr(method, "baselines", BASELINES)
    given = "noise" if isinstance(baseline, Noise) else baseline
    if given not in known:
        raise InputError(
            f"method {name!r} goes from the clean to the patched run and needs pairs: baseline {given!r} is not "
            f"one of {', '.join(known)}; use another method for it"
        )
    if getattr(method, "needs_pairs", False) and not task.paired:
        raise InputError(
            f"{task.name}: method {name!r} moves the inputs to the corrupted prompt, and the task has none; "
            "use another method, such as ig"
        )
