"""What an intervention acts on: a feature, an error, a group of nodes, a whole site, or a direction at a site."""

from __future__ import annotations

import re
from dataclasses import dataclass

from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.names import check_name
from featcircuits.inputs.ranges import SEEDS, check_number, read_number
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site

DECODER, ENCODER, RANDOM, VECTOR = "decoder", "encoder", "random", "vector"
KINDS = (DECODER, ENCODER, RANDOM, VECTOR)
"""A feature's decoder row, its encoder row, a random direction as long as its decoder row, a vector that has a name."""

_GROUP = "group:"
_FEATURE = re.compile(r"(?:(?P<site>[a-z_0-9]+)/)?(?P<feature>[0-9]+)(?::(?P<seed>[0-9]+))?")


@dataclass(frozen=True)
class Group:
    """The nodes of a group, by its name. Written `group:number`."""

    name: str

    def __str__(self) -> str:
        return f"{_GROUP}{self.name}"


@dataclass(frozen=True)
class Direction:
    """A direction of the activation at a site.

    Written `resid_2/decoder:303`, `resid_5/decoder:resid_2/303` (a row of another site's dictionary),
    `resid_2/encoder:303`, `resid_2/random:303` or `resid_2/random:303:7` (with a seed), `resid_2/vector:name`.
    """

    site: Site
    kind: str
    of: Node | str
    """The feature, or the vector's name."""
    seed: int = 0

    def __str__(self) -> str:
        if isinstance(self.of, str):
            return f"{self.site}/{self.kind}:{self.of}"
        feature = str(self.of.feature) if self.of.site == self.site else str(self.of)
        return f"{self.site}/{self.kind}:{feature}" + (f":{self.seed}" if self.seed else "")


What = Node | Group | Site | Direction


def parse_what(text: str | What) -> What:
    """What a text names; raises `InputError` for one that names nothing."""
    if isinstance(text, Node):
        if text.place is not None:
            raise InputError(f"node {text}: give its place as the intervention's `where`")
        return text
    if isinstance(text, (Group, Site, Direction)):
        return text
    if not isinstance(text, str):
        raise InputError(f"{shortened(text)} cannot be acted on; give the name of a node, a group or a site")
    if text.startswith(_GROUP):
        return Group(check_name(text.removeprefix(_GROUP), "group"))
    site, _, rest = text.partition("/")
    kind, colon, of = rest.partition(":")
    if colon:
        return _direction(Site.parse(site), kind, of)
    return Node.parse(text) if rest else Site.parse(site)


def _direction(site: Site, kind: str, of: str) -> Direction:
    if kind not in KINDS:
        raise InputError(f"unknown direction {shortened(kind)} at {site}; {known(KINDS, kind)}")
    if kind == VECTOR:
        return Direction(site, kind, check_name(of, "vector"))
    match = _FEATURE.fullmatch(of)
    if match is None or (match["seed"] and kind != RANDOM):
        raise InputError(f"{site}/{kind}:{of} names no feature; write {site}/{kind}:303")
    feature = read_number("feature", match["feature"])
    seed = read_number("seed", match["seed"] or "0")
    check_number("seed", seed, SEEDS)
    return Direction(site, kind, Node(Site.parse(match["site"]) if match["site"] else site, feature), seed)
