"""Which of several circuits a union's nodes and edges come from: in its manifest, and as attributes and colours.

A manifest's `membership` has the circuits' names (`circuits`), and for nodes (name -> numbers) and edges ([source,
target, numbers]) the numbers of the circuits that have them. In graphs each node and edge has it as one text,
"ioi + gender", or "all circuits".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from featcircuits.files.palette import INK, NEUTRAL, SERIES
from featcircuits.inputs.names import LONGEST

if TYPE_CHECKING:
    import networkx as nx

KEY = "membership"
ALL, _SHARED = "all circuits", INK
"""What all circuits have, and its colour."""


def membership_record(
    names: Sequence[str], nodes: Mapping[str, Sequence[int]], edges: Mapping[tuple[str, str], Sequence[int]]
) -> dict[str, Any]:
    """The record for a manifest; members are numbers of `names`."""
    return {
        "circuits": [*names],
        "nodes": {name: [*members] for name, members in nodes.items()},
        "edges": [[source, target, [*members]] for (source, target), members in edges.items()],
    }


def called(members: Sequence[int], names: Sequence[str]) -> str:
    """What a set of circuits is called: their names, their numbers from 1 where those are too long, or all."""
    if len(members) == len(names):
        return ALL
    text = " + ".join(names[number] for number in members)
    return text if len(text) <= LONGEST else "circuits " + "+".join(str(number + 1) for number in members)


def add_membership(graph: nx.DiGraph, manifest: Mapping[str, Any]) -> None:
    """The attribute `membership` of the nodes and edges of a union; nothing for another circuit."""
    if (found := _memberships(manifest)) is None:
        return
    for name, members in found.nodes.items():
        if name in graph:
            graph.nodes[name][KEY] = called(members, found.names)
    for source, target, members in found.edges:
        if graph.has_edge(source, target):
            graph.edges[source, target][KEY] = called(members, found.names)


def colours_in(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Membership -> its colour, single circuits first; empty for a circuit that is no union.

    Where there are more memberships than colours, the last ones are grey.
    """
    if (found := _memberships(manifest)) is None:
        return {}
    lists = [*found.nodes.values(), *(members for _, _, members in found.edges)]
    some = {tuple(members) for members in lists if len(members) < len(found.names)}
    free = [colour for colour in SERIES if colour not in (INK, NEUTRAL)]
    colours: dict[str, str] = {}
    for members in sorted(some, key=lambda members: (len(members), members)):
        colours[called(members, found.names)] = free[len(colours)] if len(colours) < len(free) else NEUTRAL
    return {**colours, ALL: _SHARED}


class _Memberships(NamedTuple):
    """A record, as `membership_record` makes it."""

    names: list[str]
    nodes: Mapping[str, list[int]]
    edges: list[tuple[str, str, list[int]]]


def _memberships(manifest: Mapping[str, Any]) -> _Memberships | None:
    """The record in a manifest; damaged ones are left out, since nothing but colours depends on them."""
    found = manifest.get(KEY)
    if not isinstance(found, Mapping):
        return None
    names, nodes, edges = (found.get(name) for name in ("circuits", "nodes", "edges"))
    if not (isinstance(names, list) and isinstance(nodes, Mapping) and isinstance(edges, list)):
        return None
    if not all(map(_is_edge, edges)):
        return None
    lists = [*nodes.values(), *(row[2] for row in edges)]
    whole = all(isinstance(name, str) for name in names) and all(_numbers(one, len(names)) for one in lists)
    return _Memberships(names, nodes, [tuple(row) for row in edges]) if whole else None


def _is_edge(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(isinstance(end, str) for end in row[:2])


def _numbers(members: Any, count: int) -> bool:
    return isinstance(members, list) and all(type(number) is int and 0 <= number < count for number in members)
