"""The record of an intervention: what is changed, how, where, and what is held as it was; as text and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.files.reading import read_json
from featcircuits.files.writing import write_json
from featcircuits.inputs.names import check_name
from featcircuits.interventions.how import How, Take, how_from_json, how_to_json, parse_how
from featcircuits.interventions.what import What, parse_what
from featcircuits.interventions.where import Where, parse_where

NOTHING, ATTENTION, NORMS, DIRECT = "nothing", "attention", "attention+norms", "direct"
HELD = (NOTHING, ATTENTION, NORMS, DIRECT)
"""What keeps its value of the unedited run. `direct`: patterns, norms and every node that is not changed."""

_LONGEST = 1000
_NUMBER = r"-?[0-9.]+(?:e[+-]?[0-9]+)?"
_CHANGED = re.compile(rf"(?P<head>.+?)(?P<sign>[=+*])(?P<value>{_NUMBER}|[a-z]+)", re.IGNORECASE)
_TAKEN = re.compile(r"(?P<head>[^<]*[^<@])(?P<sign><)(?P<value>[^=<*]+)")
_HOLDING = re.compile(r"(?P<rest>.+?)(?::held=(?P<held>[a-z+]*))?")

FORMAT, VERSION = "featcircuits-interventions", 1


@dataclass(frozen=True)
class Intervention:
    """One change that is made to a model's run.

    `what`: a node without a place (`resid_2/303`, `resid_2/error`), a group of nodes (`group:number`), a whole site
    (`resid_9`), or a direction at a site (`resid_2/decoder:303`; see `featcircuits.interventions.what`).
    `how`: `Set(0)`, `Add(4)`, `Scale(2)`, `Ablate("mean")`, or `Take(...)`, which swaps in a value from another run,
    site or place (`featcircuits.interventions.how`).
    `where`: a position (from the prompt's end if it is negative), a slice, a role, "all", "prompt", "generated",
    "active" (wherever the feature is active), or None: then nodes of a group act at their own places, and all else
    at every token. A slice, a position and a role are places of the prompt.
    `held`: what keeps its values of the unedited run: "nothing", "attention" (patterns), "attention+norms" (and the
    norms' scales), or "direct" (and all nodes that are not changed, so that only direct effects are left).

    Written `resid_2/303@5=0`, `resid_2/303@subject*2`, `group:number@all+4`, `resid_9@-1<resid_15@-1`,
    `resid_2/303@5=mean`, `mlp_2/303@5=0:held=direct`. The fields also take texts. Raises `InputError` for values that
    mean nothing.
    """

    what: What
    how: How
    where: Where = None
    held: str = NOTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", parse_what(self.what))
        object.__setattr__(self, "where", parse_where(self.where))
        if not isinstance(self.how, How):
            raise InputError(f"how is {shortened(self.how)}; give Set, Add, Scale, Ablate or Take")
        if self.held not in HELD:
            raise InputError(f"held is {shortened(self.held)}; {known(HELD, self.held)}")

    @classmethod
    def parse(cls, text: str | Intervention) -> Intervention:
        """The intervention that a text means; raises `InputError` for any other text."""
        if isinstance(text, Intervention):
            return text
        whole = _HOLDING.fullmatch(text) if isinstance(text, str) and len(text) <= _LONGEST else None
        match = whole and (_TAKEN.fullmatch(whole["rest"]) or _CHANGED.fullmatch(whole["rest"]))
        if whole is None or match is None:
            raise InputError(
                f"{shortened(text)} is not an intervention; write resid_2/303@5=0, resid_2/303@subject*2, "
                "group:number@all+4 or resid_9@-1<resid_15@-1"
            )
        what, at, where = match["head"].partition("@")
        try:
            how = parse_how(match["sign"], match["value"])
            held = whole["held"] if whole["held"] is not None else NOTHING
            return cls(parse_what(what), how, parse_where(where) if at else None, held)
        except InputError as error:
            raise InputError(f"{shortened(text)}: {error}") from None

    def __str__(self) -> str:
        place = "" if self.where is None else f"@{self.where}"
        return f"{self.what}{place}{self.how}" + ("" if self.held == NOTHING else f":held={self.held}")

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        where = None if self.where is None else str(self.where)
        return {"what": str(self.what), **how_to_json(self.how), "where": where, "held": self.held}

    @classmethod
    def from_json(cls, record: Any) -> Intervention:
        """The inverse of `to_json`; raises `InputError` for anything else."""
        if not isinstance(record, Mapping) or not {"what", "how", "value"} <= set(record) <= _FIELDS:
            raise InputError(f"{shortened(record)} is not an intervention; its fields are {', '.join(sorted(_FIELDS))}")
        how = how_from_json(record["how"], record["value"])
        held = record.get("held", NOTHING)
        return cls(record["what"], how, parse_where(record.get("where")), held)

    @property
    def source(self) -> Take | None:
        """Where its value comes from, if that is elsewhere."""
        return self.how if isinstance(self.how, Take) else None


_FIELDS = frozenset({"what", "how", "value", "where", "held"})


def interventions_of(given: Iterable[Intervention | str] | Intervention | str) -> tuple[Intervention, ...]:
    """The interventions, given as values or texts; raises `InputError` for anything else, and for none."""
    if isinstance(given, (str, Intervention)):
        given = [given]
    if not isinstance(given, Iterable):
        raise InputError(f"interventions is {shortened(given)}; give a list, such as ['resid_2/303@5=0']")
    found = tuple(Intervention.parse(one) for one in given)
    if not found:
        raise InputError("there are no interventions; give at least one, such as 'resid_2/303@5=0'")
    if len(levels := dict.fromkeys(one.held for one in found)) > 1:
        raise InputError(f"interventions hold different things ({', '.join(levels)}); one run holds only one of them")
    return found


def save_interventions(path: str | Path, interventions: Iterable[Intervention | str], overwrite: bool = False) -> None:
    """Write a file of interventions; raises `InputError` if it exists, unless `overwrite`."""
    records = [one.to_json() for one in interventions_of(interventions)]
    write_json(path, {"format": FORMAT, "version": VERSION, "interventions": records}, overwrite=overwrite)


def load_interventions(path: str | Path) -> tuple[Intervention, ...]:
    """The interventions in a file; raises `InputError` that names the file for anything else."""
    table, shown = read_json(path, "file of interventions"), shortened(Path(path), 300)
    if not isinstance(table, Mapping) or table.get("format") != FORMAT or table.get("version") != VERSION:
        raise InputError(f"{shown}: not a file of interventions ({FORMAT!r}, version {VERSION})")
    records = table.get("interventions")
    if not isinstance(records, list):
        raise InputError(f"{shown}: interventions is {shortened(records)}; it must be a list")
    try:
        return interventions_of([Intervention.from_json(record) for record in records])
    except InputError as error:
        raise InputError(f"{shown}: {error}") from None


def check_vector_name(name: str) -> str:
    """A name that an intervention's text can hold: of a group, a vector or a run."""
    check_name(name, "name")
    if wrong := next((c for c in "@:=<" if c in name), None):
        raise InputError(f"name {shortened(name)} holds {wrong!r}, which means something in an intervention's text")
    return name
