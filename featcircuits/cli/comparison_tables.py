"""Tables of a comparison of circuits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from featcircuits.cli.output import printable
from featcircuits.comparison.compare import Comparison
from featcircuits.comparison.overlap import Overlap
from featcircuits.model.nodes import Node

_FIGURES = {
    "Jaccard": "jaccard",
    "weighted": "weighted",
    "shares": "weighted_shares",
    "sign": "same_sign",
    "rank": "rank",
}
"""Title -> field of an `Overlap`."""


def overlap_tables(found: Comparison) -> Iterator[Table]:
    """A table of nodes and, where circuits have any, one of edges, with a row per pair."""
    for what in ("nodes", "edges"):
        rows = {(pair.first, pair.second): getattr(pair, what) for pair in found.pairs}
        if any(one is not None for one in rows.values()):
            table = _table(f"{what.capitalize()} in common", "circuits")
            for pair, one in rows.items():
                _add(table, " | ".join(pair), one)
            yield table


def part_tables(found: Comparison) -> Iterator[Table]:
    """Of two circuits, the same by layer and by kind of site."""
    if len(found.pairs) != 1:
        return
    (pair,) = found.pairs
    yield _parts("Nodes by layer and kind of site", pair.nodes_by_layer, pair.nodes_by_kind)
    if pair.edges is not None:
        yield _parts("Edges by layer of the target and kinds of both ends", pair.edges_by_layer, pair.edges_by_kind)


def _parts(title: str, *parts: Mapping[str, Overlap]) -> Table:
    table = _table(title, "part")
    for part in parts:
        for name, one in part.items():
            _add(table, name, one)
        table.add_section()
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column(first, overflow="fold", no_wrap=first == "part")
    for name in ("shared", "of", *_FIGURES):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, name: str, one: Overlap | None) -> None:
    if one is None:
        table.add_row(Text(printable(name)), *["-"] * (2 + len(_FIGURES)))
        return
    counts = (str(one.shared), str(one.first + one.second - one.shared))
    table.add_row(Text(printable(name)), *counts, *(_figure(getattr(one, field)) for field in _FIGURES.values()))


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def shared_table(found: Comparison, count: int) -> Table:
    """The strongest nodes that all circuits have, by their weakest effect, with their effect in each."""
    nodes = {node: [one.nodes[node].effect for one in found.circuits.values()] for node in _in_all(found)}
    ranked = sorted(nodes, key=lambda node: -min(map(abs, nodes[node])))[:count]
    table = Table(title=f"Strongest {len(ranked)} of {len(nodes)} shared nodes", title_justify="left")
    table.add_column("node", no_wrap=True)
    for name in found.names:
        table.add_column(Text(printable(name)), justify="right")
    labels = [next((one.labels[node] for one in found.circuits.values() if node in one.labels), "") for node in ranked]
    if any(labels):
        table.add_column("what it is")
    for node, label in zip(ranked, labels, strict=True):
        effects = (Text(f"{effect:+.4f}", style="blue" if effect > 0 else "red") for effect in nodes[node])
        shown = [Text(printable(label), no_wrap=True, overflow="ellipsis")] if any(labels) else []
        table.add_row(str(node), *effects, *shown)
    return table


def _in_all(found: Comparison) -> list[Node]:
    first, *others = found.circuits.values()
    return [node for node in first.nodes if all(node in other.nodes for other in others)]
