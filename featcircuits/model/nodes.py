"""Nodes of a circuit, with their names and places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.names import check_place
from featcircuits.model.sites import Site

Place = int | str | None
"""A token position, a role's name, or None if positions are summed."""

AGGREGATES = ("none", "sum", "role")
"""How positions become places: each is a place of its own, all are one place, or each role is one."""

_NUMBER = r"0|[1-9][0-9]{0,17}"
_NAME = re.compile(rf"(?P<site>[a-z_0-9]+)/(?P<feature>error|{_NUMBER})(@(?P<place>.+))?")
_LONGEST = 1000


class Node(NamedTuple):
    """A feature of a site, or its error node (`feature` is None), at a place.

    Written `resid_3/1042@7`, `resid_3/error@subject`, or `resid_3/1042` without a place.
    """

    site: Site
    feature: int | None
    place: Place = None

    @property
    def is_error(self) -> bool:
        """Whether the node is an error node."""
        return self.feature is None

    def __str__(self) -> str:
        feature = "error" if self.feature is None else self.feature
        return f"{self.site}/{feature}" + ("" if self.place is None else f"@{self.place}")

    @classmethod
    def parse(cls, name: str | Node) -> Node:
        """The inverse of `str`; raises `InputError` for anything else."""
        if isinstance(name, Node):
            return name
        match = _NAME.fullmatch(name) if isinstance(name, str) and len(name) <= _LONGEST else None
        if match is None:
            raise InputError(
                f"{shortened(name)} is not a node; nodes look like 'resid_3/1042', 'mlp_0/error@7', 'attn_1/5@verb'"
            )
        feature = None if match["feature"] == "error" else int(match["feature"])
        place = match["place"]
        if place is not None and re.fullmatch(_NUMBER, place):
            place = int(place)
        check_place(place)
        return cls(Site.parse(match["site"]), feature, place)


def nodes_of(given: Iterable[Node | str]) -> list[Node]:
    """The nodes, given as nodes or names, each once; raises `InputError` for anything else."""
    if isinstance(given, (str, Node)) or not isinstance(given, Iterable):
        raise InputError(f"nodes is {shortened(given)}; give a list of nodes or names, such as ['resid_3/1042@7']")
    return list(dict.fromkeys(Node.parse(node) for node in given))


METRIC = "metric"
"""The name of the metric as an endpoint of edges."""


def input_node(place: Place) -> str:
    """The name of the input at a place, which is the token there."""
    return "input" if place is None else f"input@{place}"


Endpoint = Node | str
"""A node, the metric, or an input (`input_node`)."""


def endpoint(name: Any) -> Endpoint:
    """The endpoint of an edge from its name."""
    if isinstance(name, str) and (name == METRIC or name.partition("@")[0] == "input"):
        return name
    return Node.parse(name)


def checked_places(places: Any, aggregate: Any) -> tuple[Place, ...]:
    """The places, checked to occur once each and to be of the aggregate's kind."""
    if aggregate not in AGGREGATES:
        raise InputError(f"unknown aggregate {shortened(aggregate)}; {known(AGGREGATES, aggregate)}")
    if isinstance(places, str) or not isinstance(places, Sequence) or not places:
        raise InputError(f"places is {shortened(places)}; give a list of at least one place")
    kind, what = _PLACES[aggregate]
    for place in places:
        if type(place) is not kind:
            raise InputError(f"place {shortened(place)} cannot be one: with aggregate={aggregate!r} a place is {what}")
        check_place(place)
    if len(set(places)) != len(places):
        raise InputError(f"a place occurs twice in {shortened(list(places))}")
    return tuple(places)


_PLACES: Mapping[str, tuple[type, str]] = {
    "none": (int, "a token position"),
    "sum": (type(None), "None"),
    "role": (str, "a role's name"),
}
