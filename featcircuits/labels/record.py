"""One label of one feature. Labels are text from strangers: bounded, on one line, and never markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.names import check_name
from featcircuits.model.sites import Site

LONGEST_LABEL, LONGEST_NOTE = 1000, 10_000
"""Characters. A circuit has room for fewer (`Circuit.labelled` cuts)."""


@dataclass(frozen=True)
class Label:
    """What a feature is called, and by whom; raises `InputError` for text that is too long or cannot be printed.

    `origin`: of an imported record the form, and the fields that have no place here, so that it can be exported as
    it was. `score`: of how well the label explains the feature, where its source gives one.
    """

    site: Site
    feature: int
    label: str
    source: str
    score: float | None = None
    note: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        if type(self.feature) is not int or not 0 <= self.feature < 10**18:
            raise InputError(f"{shortened(self.feature)} is no feature's number; give a whole number from 0 on")
        what = f"of {self.name}"
        check_name(self.label, f"the label {what}", LONGEST_LABEL)
        check_name(self.source, f"the source of the label {what}")
        if self.note != "":
            check_name(self.note, f"the note {what}", LONGEST_NOTE)
        number = type(self.score) in (int, float) and math.isfinite(self.score or 0)
        if not (self.score is None or number):
            raise InputError(f"the score {what} is {shortened(self.score)}; give a number, or leave it out")
        if not isinstance(self.origin, Mapping):
            raise InputError(f"the origin {what} is {shortened(self.origin)}; it must be an object, or left out")

    @property
    def name(self) -> str:
        return f"{self.site}/{self.feature}"

    def of_form(self, form: str) -> Mapping[str, Any]:
        """The fields that a record imported from this form had besides; none if it came from elsewhere."""
        return {k: v for k, v in self.origin.items() if k != "form"} if self.origin.get("form") == form else {}

    def to_json(self) -> dict[str, Any]:
        """As it is in labels.jsonl; what is unknown is left out."""
        optional = {"score": self.score, "note": self.note or None, "origin": dict(self.origin) or None}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"site": str(self.site), "feature": self.feature, "label": self.label, "source": self.source, **given}

    @classmethod
    def from_json(cls, row: Any) -> Label:
        """The inverse of `to_json`."""
        if not isinstance(row, Mapping):
            raise InputError(f"{shortened(row)} is no label; a line is an object with {', '.join(_REQUIRED)}")
        if missing := [name for name in _REQUIRED if name not in row]:
            raise InputError(f"field {missing[0]!r} is missing; a label has {', '.join(_REQUIRED)}")
        if unknown := [name for name in row if name not in cls.__dataclass_fields__]:
            raise InputError(f"unknown field {shortened(unknown[0])}; {known(cls.__dataclass_fields__, unknown[0])}")
        return cls(**{str(name): value for name, value in row.items()})


_REQUIRED = ("site", "feature", "label", "source")


DEFAULT = "default"
"""The source of default labels."""


def texts(labels: Iterable[Label]) -> dict[str, str]:
    """Feature ("resid_2/303") -> its label; where it has several, the last counts, and a default label least."""
    return {one.name: one.label for one in sorted(labels, key=lambda one: one.source != DEFAULT)}
