"""Nodes of a circuit and their names."""

from __future__ import annotations

import re
from typing import NamedTuple

from featcircuits.errors import InputError
from featcircuits.naming import check_place
from featcircuits.sites import Site

Place = int | str | None
"""A token position, a role's name, or None where positions are summed."""

_NUMBER = r"0|[1-9][0-9]{0,17}"
_NAME = re.compile(rf"(?P<site>[a-z_0-9]+)/(?P<feature>error|{_NUMBER})(@(?P<place>.+))?")


class Node(NamedTuple):
    """A feature of a site, or its error term (`feature` None), at a place.

    Written `resid_3/1042@7`, `resid_3/error@subject`, or `resid_3/1042` without a place.
    """

    site: Site
    feature: int | None
    place: Place = None

    @property
    def is_error(self) -> bool:
        return self.feature is None

    def __str__(self) -> str:
        feature = "error" if self.feature is None else self.feature
        return f"{self.site}/{feature}" + ("" if self.place is None else f"@{self.place}")

    @classmethod
    def parse(cls, name: str) -> Node:
        """The inverse of `str`; raises `InputError` for anything else."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(
                f"{name[:80]!r} is not a node; nodes look like 'resid_3/1042', 'mlp_0/error@7', 'attn_1/5@verb'"
            )
        feature = None if match["feature"] == "error" else int(match["feature"])
        place = match["place"]
        if place is not None and re.fullmatch(_NUMBER, place):
            place = int(place)
        check_place(place)
        return cls(Site.parse(match["site"]), feature, place)


METRIC = "metric"
"""The name of the node that stands for the metric."""


def input_node(place: Place) -> str:
    """The name of the node that stands for the token at a place."""
    return "input" if place is None else f"input@{place}"
