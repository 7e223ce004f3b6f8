"""Numbers from the user: how they are written, and the range of each."""

from __future__ import annotations

import math
import re
from dataclasses import field
from typing import Any, NamedTuple

from featcircuits.errors import InputError, shortened

MOST = 1_000_000_000
"""The most of anything that is counted and has no other bound."""
MOST_ROWS = 1 << 16
"""The most rows of one forward pass, if memory allows so many."""
LARGEST_SEED = 2**32 - 1

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")
_LONGEST = {int: 18, float: 30}
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


class Range(NamedTuple):
    """The numbers from `least` to `most`, both included; `above` excludes `least`."""

    least: float
    most: float
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is in the range; NaN is in no range."""
        return self.least <= value <= self.most and not (self.above and value == self.least)

    def __str__(self) -> str:
        return f"{'above' if self.above else 'at least'} {_shown(self.least)} and at most {_shown(self.most)}"


def _shown(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


SEEDS = Range(0, LARGEST_SEED)
BATCHES = Range(1, MOST)
ROWS = Range(1, MOST_ROWS)


def ranged(default: float, least: float, most: float, *, above: bool = False) -> Any:
    """A dataclass field for a number with a default and a range."""
    return field(default=default, metadata={"range": Range(least, most, above)})


def check_number(what: str, value: Any, within: Range, kind: type = int) -> None:
    """Raise `InputError` for a value that is not a number of the kind or is outside the range."""
    check_kind(what, value, kind)
    if not within.holds(value):
        raise InputError(f"{what} is {shortened(value)}; it must be {within}")


def check_kind(what: str, value: Any, *kinds: type) -> None:
    """Raise `InputError` for a value of none of the types; a whole number counts as a number, True does not."""
    if type(value) in kinds or (type(value) is int and float in kinds):
        return
    named = " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds if kind is not type(None))
    raise InputError(f"{what} is {shortened(value)}, but must be of type {kinds[0].__name__}: give {named}")


def read_value(what: str, text: str, kind: type) -> Any:
    """The value that a text writes: the text itself, `true` or `false`, or a number as `read_number` takes it."""
    if kind is str:
        return text
    if kind is not bool:
        return read_number(what, text, kind)
    if text not in ("true", "false"):
        raise InputError(f"{what} is {shortened(text)}; give true or false")
    return text == "true"


def read_number(what: str, text: str, kind: type = int) -> Any:
    """The number that a text writes in plain digits.

    Raises `InputError` for blanks, a plus sign, underscores, digits of other scripts, leading zeros of whole numbers,
    NaN and infinity, and more digits than a number can use.
    """
    if len(text) > _LONGEST[kind] and text.isascii() and text.strip("-.0123456789") == "":
        raise InputError(f"{what} is {shortened(text)}: it has more digits than a number can have here")
    pattern = _WHOLE if kind is int else _DECIMAL
    if not pattern.fullmatch(text):
        such = "digits alone, such as 10" if kind is int else "digits, such as 0.25 or 1e-3"
        raise InputError(
            f"{what} is {shortened(text)}, but must be of type {kind.__name__}: give {_NAMES[kind]} in {such}"
        )
    value = kind(text)
    if not math.isfinite(value):
        raise InputError(f"{what} is {shortened(text)}, but must be finite")
    return value
