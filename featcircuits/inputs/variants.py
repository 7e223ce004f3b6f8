"""Things chosen by name, with options after colons, as users write them: `ratio` or `ratio:positive=0.8`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.ranges import MOST, Range, check_kind, check_number, read_number

Table = Mapping[str, Callable[..., Any]]
"""Name -> a dataclass whose fields, with their defaults, are the options; `ranged` gives one a range."""

_COUNTS = Range(1, MOST)


def options_of(name: str, table: Table, what: str) -> dict[str, Any]:
    """The options of a row of a table, with their defaults; an unknown name is an `InputError`."""
    return {option.name: option.default for option in _fields(name, table, what)}


def built(name: str, table: Table, what: str, options: Mapping[str, Any]) -> Any:
    """A row of a table with options; raises `InputError` for unknown ones, wrong types and numbers out of range."""
    check_options(name, table, what, options)
    for option in _fields(name, table, what):
        if option.name in options:
            _check(f"{what} {name!r}: {option.name}", options[option.name], option)
    return table[name](**options)


def check_options(name: str, table: Table, what: str, options: Iterable[str], further: Iterable[str] = ()) -> None:
    """Refuse an option that the row does not have, naming the rows that have it."""
    own = [*options_of(name, table, what), *further]
    for option in options:
        if option not in own:
            others = [other for other in table if option in options_of(other, table, what)]
            having = f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else ""
            raise InputError(
                f"{what} {name!r} has no option {shortened(option)}; its options: {', '.join(own) or 'none'}{having}"
            )


def parse_named(
    text: str, table: Table, what: str, further: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """The name and the options written after it, each of the type of its default.

    `what` a table holds, for messages. `further`: options that every name takes, with their defaults. Raises
    `InputError` for an unknown name or option, one given twice, and a value that is not of the type.
    """
    check_kind(what, text, str)
    name, *parts = (part.strip() for part in text.split(":"))
    defaults = {**options_of(name, table, what), **(further or {})}
    options: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        check_options(name, table, what, [key], further or ())
        if key in options:
            raise InputError(f"{what} {shortened(text)}: {key} is given twice")
        kind = type(defaults[key])
        where = f"{what} {shortened(text)}: {key}"
        options[key] = value if kind is str else read_number(where, value, kind)
    return name, options


def _fields(name: str, table: Table, what: str) -> tuple[Field[Any], ...]:
    check_kind(what, name, str)
    if name not in table:
        raise InputError(f"unknown {what} {shortened(name)}; {known(table, name)}")
    return fields(table[name])  # type: ignore[arg-type]


def _check(where: str, value: Any, option: Field[Any]) -> None:
    kind, within = type(option.default), option.metadata.get("range")
    if within is None and kind is not int:
        check_kind(where, value, kind, tuple)  # names joined by + may come as a tuple
    else:
        check_number(where, value, within or _COUNTS, kind)
