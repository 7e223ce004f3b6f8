"""Words of earlier versions: a message tells their users the word of today."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import signature
from typing import NamedTuple, ParamSpec, TypeVar

from featcircuits.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


class New(NamedTuple):
    """A word of today and, if it takes its value in another form, an example."""

    word: str
    example: str = ""


def _in_estimator(example: str) -> tuple[New, ...]:
    return tuple(New(word, example) for word in ("nodes", "estimator", "estimators"))


RENAMED: Mapping[str, tuple[New, ...]] = {
    "method": (New("estimator"),),
    "methods": (New("estimators"),),
    "errors": (New("error_effects"), New("error_nodes")),
    "rule": (New("quadrature"), *_in_estimator("ig:quadrature=gauss")),
    "rules": _in_estimator("relp:rules=with_ah"),
    "steps": _in_estimator("ig:steps=20"),
    "node_threshold": (New("keep_nodes", "threshold=0.1"),),
    "edge_threshold": (New("keep_edges", "threshold=0.1"),),
}
"""Old word -> the words of today that may replace it; the first one known at the place of use is meant."""


def told(word: str, names: Iterable[str]) -> str | None:
    """The message about an old word at a place where only `names` are known; None if the word is not an old one."""
    known = set(names)
    new = next((new for new in RENAMED.get(word, ()) if word not in known and new.word in known), None)
    if new is None:
        return None
    return (
        f"{word!r} is now {new.word!r}" if not new.example else f"{word!r} is now part of {new.word!r}: {new.example}"
    )


def takes_new_words(function: Callable[P, R]) -> Callable[P, R]:
    """The function, but raising an `InputError` that names the new word if an old one is given by keyword."""
    names = list(signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        for word in options:
            if (message := told(word, names)) is not None:
                raise InputError(f"{function.__name__}: {message}")
        return function(*args, **options)

    return checked
