"""How an intervention changes a value: to a number, by a number, times a number, or to a value from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from featcircuits.errors import InputError, known, shortened
from featcircuits.evaluation import ABLATIONS
from featcircuits.inputs.names import check_name
from featcircuits.inputs.ranges import Range, check_number, read_number
from featcircuits.interventions.where import Where, parse_where
from featcircuits.model.sites import Site

_NUMBERS = Range(-1e30, 1e30)

OWN, CORRUPTED = "", "corrupted"
"""The runs that need no name: the unedited run of the prompts themselves, and that of the corrupted prompts."""


@dataclass(frozen=True)
class Ablate:
    """The value of an ablation: `=zero`, `=mean`, `=paired`, `=resample` (`featcircuits.evaluation.ABLATIONS`)."""

    to: str = "zero"

    from_elsewhere = True

    def __post_init__(self) -> None:
        if self.to not in ABLATIONS:
            raise InputError(f"unknown ablation {shortened(self.to)}; {known(ABLATIONS, self.to)}")

    def __str__(self) -> str:
        return f"={self.to}"

    def __call__(self, old: Tensor, given: Tensor) -> Tensor:
        return given.expand_as(old)


@dataclass(frozen=True)
class Set:
    """A number: `=0`."""

    value: float

    from_elsewhere = False

    def __post_init__(self) -> None:
        check_number("value", self.value, _NUMBERS, float)

    def __str__(self) -> str:
        return f"={written(self.value)}"

    def __call__(self, old: Tensor, given: Tensor) -> Tensor:
        return old.new_full(old.shape, self.value)


@dataclass(frozen=True)
class Add:
    """A number more, or less if it is negative: `+4`, `+-4`."""

    value: float

    from_elsewhere = False

    def __post_init__(self) -> None:
        check_number("value", self.value, _NUMBERS, float)

    def __str__(self) -> str:
        return f"+{written(self.value)}"

    def __call__(self, old: Tensor, given: Tensor) -> Tensor:
        return old + self.value


@dataclass(frozen=True)
class Scale:
    """A multiple: `*2`."""

    factor: float

    from_elsewhere = False

    def __post_init__(self) -> None:
        check_number("factor", self.factor, _NUMBERS, float)

    def __str__(self) -> str:
        return f"*{written(self.factor)}"

    def __call__(self, old: Tensor, given: Tensor) -> Tensor:
        return old * self.factor


@dataclass(frozen=True)
class Take:
    """A value from elsewhere, plus a number: `<corrupted`, `<resid_15@-1`, `<paris:resid_15@-1`, `<@3+4`.

    `run`: "" for the unedited run of the same prompts, "corrupted" for that of their twins, or the name of a prompt
    that is given with the interventions. `site` and `place`: None for those of the intervention itself.
    """

    run: str = OWN
    site: Site | None = None
    place: Where = None
    plus: float = 0.0

    from_elsewhere = True

    def __post_init__(self) -> None:
        check_number("plus", self.plus, _NUMBERS, float)
        if self.run == OWN and self.site is None and self.place is None:
            raise InputError("nothing is said about where the value comes from; name a run, a site or a place")

    @property
    def source(self) -> str:
        """The text after `<`."""
        site = "" if self.site is None else str(self.site)
        at = site + ("" if self.place is None else f"@{self.place}")
        run = f"{self.run}:" if self.run and at else self.run
        return run + at + (f"+{written(self.plus)}" if self.plus else "")

    def __str__(self) -> str:
        return f"<{self.source}"

    def __call__(self, old: Tensor, given: Tensor) -> Tensor:
        return (given + self.plus if self.plus else given).expand_as(old)


How = Ablate | Set | Add | Scale | Take

_SOURCE = re.compile(r"(?P<rest>.*?)(?:\+(?P<plus>-?[0-9.]+(?:e[+-]?[0-9]+)?))?")
_SIGNS: Mapping[str, type[Set] | type[Add] | type[Scale]] = {"=": Set, "+": Add, "*": Scale}
SIGNS = ("=", "+", "*", "<")


def parse_how(sign: str, text: str) -> How:
    """The change that a sign and the text after it mean."""
    if sign == "<":
        return _taken(text)
    if sign == "=" and text.isalpha():
        return Ablate(text)
    return _SIGNS[sign](read_number("the value of an intervention", text, float))


def _taken(text: str) -> Take:
    match = _SOURCE.fullmatch(text)
    assert match is not None
    plus = read_number("the value of an intervention", match["plus"], float) if match["plus"] else 0.0
    rest, at, place = match["rest"].partition("@")
    run, colon, site = rest.rpartition(":")
    if not colon and _is_site(site):
        run = OWN
    elif not colon:
        run, site = site, ""
    if run:
        check_name(run, "run")
    return Take(run, Site.parse(site) if site else None, parse_where(place) if at else None, plus)


def _is_site(text: str) -> bool:
    try:
        Site.parse(text)
    except InputError:
        return False
    return True


def written(value: float) -> str:
    """A number as it is read again."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


HOWS: Mapping[str, type[How]] = {"ablate": Ablate, "set": Set, "add": Add, "scale": Scale, "take": Take}
"""The names in JSON."""


def how_to_json(how: How) -> dict[str, Any]:
    """{"how": its name, "value": a number or a text}."""
    name = next(name for name, kind in HOWS.items() if isinstance(how, kind))
    match how:
        case Ablate():
            value: float | str = how.to
        case Scale():
            value = how.factor
        case Take():
            value = how.source
        case _:
            value = how.value
    return {"how": name, "value": value}


def how_from_json(name: Any, value: Any) -> How:
    """The inverse; raises `InputError` for an unknown name or a value of another type."""
    if not isinstance(name, str) or name not in HOWS:
        raise InputError(f"unknown way to intervene {shortened(name)}; {known(HOWS, name)}")
    wants_text = name in ("ablate", "take")
    if isinstance(value, bool) or not isinstance(value, str if wants_text else (int, float)):
        raise InputError(f"{name}: value is {shortened(value)}; give {'a text' if wants_text else 'a number'}")
    if isinstance(value, str) and name == "take":
        return _taken(value)
    return HOWS[name](value)  # type: ignore[call-arg]
