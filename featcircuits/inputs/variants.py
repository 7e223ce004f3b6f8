"""Values that users choose by name, with options after colons: `ratio` or `ratio:positive=0.8`.

A kind of value (estimators, selection rules, ...) has one `Table` of names, and each of its rows is a frozen
dataclass that derives from `Variant`. Text is parsed once, where it enters; after that only the value is passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, fields
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.ranges import MOST, Range, check_kind, check_number, read_value
from featcircuits.inputs.renamed import told

V = TypeVar("V")

_COUNTS = Range(1, MOST)


class Table(Mapping[str, type[V]], Generic[V]):
    """Name -> class. A class is imported when it is first used, so that names alone cost nothing.

    `what`: what the rows are, for messages. `rows`: name -> "module.Class", relative to the module `package`.
    """

    def __init__(self, what: str, package: str, rows: Mapping[str, str]) -> None:
        self.what, self.package, self.rows = what, package, rows

    def __getitem__(self, name: str) -> type[V]:
        module, _, kind = self.rows[name].rpartition(".")
        return getattr(import_module(f"{self.package}.{module}"), kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def name_of(self, kind: type) -> str:
        """The name of a row's class; for a class without a row, the class's own name."""
        return next((name for name in self if self._place(name) == (kind.__module__, kind.__name__)), kind.__name__)

    def _place(self, name: str) -> tuple[str, str]:
        module, _, kind = self.rows[name].rpartition(".")
        return f"{self.package}.{module}", kind

    def named(self, name: str) -> type[V]:
        """The class of a name; raises `InputError` for an unknown name."""
        check_kind(self.what, name, str)
        if name not in self.rows:
            raise InputError(f"unknown {self.what} {shortened(name)}; {known(self, name)}")
        return self[name]

    def parse(self, value: str | V) -> V:
        """The value that a text describes, such as `ig:steps=5`; a value is returned unchanged.

        Raises `InputError` for an unknown name or option, an option given twice, and a value that the option cannot
        have.
        """
        if isinstance(value, Variant) and value.table is self:
            return value  # type: ignore[return-value]
        check_kind(self.what, value, str)
        name, *parts = (part.strip() for part in str(value).split(":"))
        options = read_options(f"{self.what} {shortened(value)}", parts, lambda key: self._option(name, key))
        return self.named(name)(**options)

    def _option(self, name: str, key: str) -> Field[Any]:
        """A row's option by name; raises `InputError`, naming rows that have the option, if this row does not."""
        own = {option.name: option for option in fields(self.named(name))}  # type: ignore[arg-type]
        if (message := told(key, own)) is not None:
            raise InputError(f"{self.what} {name!r}: {message}")
        if key not in own:
            others = [row for row, kind in self.items() if key in [option.name for option in fields(kind)]]  # type: ignore[arg-type]
            having = f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else ""
            raise InputError(
                f"{self.what} {name!r} has no option {shortened(key)}; its options: {', '.join(own) or 'none'}{having}"
            )
        return own[key]


class Variant:
    """A row of a table: a frozen dataclass whose fields, with their defaults, are the options.

    `ranged` declares the range of a number. Options are checked whenever a value is made: a wrong type or
    a number out of range raises `InputError`.
    """

    table: ClassVar[Table[Any]]

    def __post_init__(self) -> None:
        for option in fields(self):  # type: ignore[arg-type]
            _check(f"{self.table.what} {self.name!r}: {option.name}", getattr(self, option.name), option)

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.table.name_of(type(self))

    def __str__(self) -> str:
        """The text that describes it: its name, and the options that differ from their defaults."""
        return ":".join([self.name, *written_options(self, fields(self))])  # type: ignore[arg-type]


def read_options(what: str, parts: Iterable[str], option_of: Callable[[str], Field[Any]]) -> dict[str, Any]:
    """The options that parts such as `steps=5` give; `option_of` finds each by name, or raises `InputError`."""
    found: dict[str, Any] = {}
    for part in parts:
        key, _, text = part.partition("=")
        option = option_of(key)
        if key in found:
            raise InputError(f"{what}: {key} is given twice")
        found[key] = read_value(f"{what}: {key}", text, type(option.default))
    return found


def written_options(value: object, options: Iterable[Field[Any]]) -> Iterator[str]:
    """The options of a value that differ from their defaults, as `read_options` reads them."""
    for option in options:
        if (own := getattr(value, option.name)) != option.default:
            yield f"{option.name}={_written(own)}"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _check(where: str, value: Any, option: Field[Any]) -> None:
    kind, within = type(option.default), option.metadata.get("range")
    if within is None and kind is not int:
        check_kind(where, value, kind, tuple)  # names joined by + may come as a tuple
    else:
        check_number(where, value, within or _COUNTS, kind)
