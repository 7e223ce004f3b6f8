"""Things chosen by name, with options after colons, as users write them: `ratio` or `ratio:positive=0.8`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from featcircuits.errors import InputError

Table = Mapping[str, Callable[..., Any]]
"""Name -> a dataclass whose fields, with their defaults, are the options."""


def options_of(name: str, table: Table, what: str) -> dict[str, Any]:
    """The options of a row of a table, with their defaults; an unknown name is an `InputError`."""
    if name not in table:
        raise InputError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return {field.name: field.default for field in fields(table[name])}  # type: ignore[arg-type]


def parse_named(
    text: str, table: Table, what: str, further: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """The name and the options written after it, each of the type of its default.

    `what` a table holds, for messages. `further`: options that every name takes, with their defaults. Raises
    `InputError` for an unknown name or option, one given twice, and a value that is not of the type.
    """
    name, *parts = (part.strip() for part in text.split(":"))
    defaults = {**options_of(name, table, what), **(further or {})}
    options: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in defaults:
            raise InputError(f"{what} {name!r} has no option {key!r}; its options: {', '.join(defaults) or 'none'}")
        if key in options:
            raise InputError(f"{what} {text!r}: {key} is given twice")
        options[key] = _value(f"{what} {text!r}: {key}", value, type(defaults[key]))
    return name, options


def _value(where: str, text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise InputError(f"{where} is {text!r}, but must be of type {kind.__name__}") from None
    if kind is float and not math.isfinite(value):
        raise InputError(f"{where} is {text!r}, but must be finite")
    return value
