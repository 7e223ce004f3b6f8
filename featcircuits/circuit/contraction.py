"""Groups of a circuit's nodes, and the graph in which each group is one node.

A group's effect is the sum of its nodes' effects, and an edge of the contracted graph is the sum of the edges between
the two groups, so every total is conserved: the effects of a site, what a node receives from outside its group, what
reaches the metric. Edges inside a group are left out, and their sum is kept as its attribute `inside`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from featcircuits.errors import InputError
from featcircuits.inputs.names import check_name
from featcircuits.model.nodes import METRIC, Node

if TYPE_CHECKING:
    import networkx as nx

    from featcircuits.circuit.circuit import Circuit


def checked_groups(groups: Mapping[str, Iterable[Node | str]], nodes: Iterable[Node]) -> dict[str, tuple[Node, ...]]:
    """Groups by name, their nodes in the circuit's order.

    Raises `InputError` for a name that is none or a node's, an empty group, an unknown node and a node in two groups.
    """
    order = {node: number for number, node in enumerate(nodes)}
    found: dict[str, tuple[Node, ...]] = {}
    taken: dict[Node, str] = {}
    names = {str(node) for node in order} | {METRIC}
    for name, members in groups.items():
        check_name(name, "name of a group")
        if name in names or name.startswith("input@"):
            raise InputError(f"group {name!r} has the name of a node; give it another one")
        own = {Node.parse(member) for member in members}
        if not own:
            raise InputError(f"group {name!r} has no nodes")
        for node in own:
            if node not in order:
                raise InputError(f"group {name!r} has {node}, which is not in the circuit")
            if node in taken:
                raise InputError(f"node {node} is in the groups {taken[node]!r} and {name!r}; groups do not overlap")
            taken[node] = name
        found[name] = tuple(sorted(own, key=order.__getitem__))
    return found


def contracted(circuit: Circuit) -> nx.DiGraph:
    """The circuit's graph with one node per group, whose name is the group's.

    Such a node has the attributes of `to_networkx` with kind "group": the sum of effects, the site, layer and place of
    its strongest node, where viewers draw it, and besides `members` (names, one per line) and `inside`.
    """
    import networkx as nx

    whole = circuit.to_networkx()
    home = {str(node): name for name, members in circuit.groups.items() for node in members}
    graph = nx.DiGraph(**whole.graph)
    for name, data in whole.nodes(data=True):
        if name in home:
            _add_member(graph, home[name], name, data)
        else:
            graph.add_node(name, **data)
    for source, target, data in whole.edges(data=True):
        a, b, weight = home.get(source, source), home.get(target, target), data["weight"]
        if a == b:
            graph.nodes[a]["inside"] += weight
        else:
            total = weight + (graph.edges[a, b]["weight"] if graph.has_edge(a, b) else 0.0)
            graph.add_edge(a, b, weight=total, sign=1 if total >= 0 else -1)
    return graph


_WHERE = ("site", "site_kind", "layer", "place", "words")


def _add_member(graph: nx.DiGraph, group: str, name: str, data: Mapping[str, Any]) -> None:
    if group not in graph:
        graph.add_node(group, members=name, inside=0.0, strongest=data["effect"], **_group_attributes(data, group))
        return
    own = graph.nodes[group]
    own["members"] += f"\n{name}"
    own["effect"] += data["effect"]
    if abs(data["effect"]) > abs(own["strongest"]):
        own.update({key: data[key] for key in _WHERE}, strongest=data["effect"])


def _group_attributes(data: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {
        **{key: data[key] for key in _WHERE},
        "effect": data["effect"],
        "kind": "group",
        "feature": -1,
        "label": group,
        "group": group,
    }
