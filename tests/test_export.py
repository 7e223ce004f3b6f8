"""Exports read back by networkx, and what a viewer is told."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings

import featcircuits as fc
from featcircuits.circuit import Circuit, NodeScore
from featcircuits.export import EXPORTERS
from featcircuits.nodes import METRIC, Node
from tests.test_circuit import circuits, same, small

READERS: dict[str, Callable[[Path], nx.DiGraph]] = {
    "gexf": nx.read_gexf,
    "graphml": nx.read_graphml,
    "json": lambda path: nx.node_link_graph(json.loads(path.read_text()), edges="edges"),
}
VIZ = {"viz": "http://www.gexf.net/1.3/viz", "g": "http://www.gexf.net/1.3"}
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_every_exporter_is_tested() -> None:
    assert set(READERS) == set(EXPORTERS)


@pytest.mark.parametrize("name", EXPORTERS)
@quick
@given(circuit=circuits())
def test_an_export_reads_back_equal(name: str, circuit: Circuit, tmp_path: Path) -> None:
    path = tmp_path / f"circuit{EXPORTERS[name].suffix}"
    EXPORTERS[name].write(circuit, path, overwrite=True)
    found, expected = READERS[name](path), circuit.to_networkx()
    for _, data in found.nodes(data=True):
        data.pop("viz", None)
    for _, _, data in found.edges(data=True):
        for extra in ("viz", "id"):
            data.pop(extra, None)
    assert dict(found.nodes(data=True)) == dict(expected.nodes(data=True))
    assert {(a, b): d for a, b, d in found.edges(data=True)} == {(a, b): d for a, b, d in expected.edges(data=True)}
    if name != "gexf":  # GEXF has no place for a graph's attributes
        assert same(Circuit.from_networkx(found), circuit)


@pytest.mark.parametrize("name", EXPORTERS)
def test_earlier_exports_are_kept_and_missing_folders_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "circuit.out"
    EXPORTERS[name].write(small(), path)
    before = path.read_bytes()
    with pytest.raises(fc.InputError, match="exists; choose another name"):
        EXPORTERS[name].write(small(), path)
    assert path.read_bytes() == before
    EXPORTERS[name].write(small(), path, overwrite=True)
    with pytest.raises(fc.InputError, match="the folder .* does not exist"):
        EXPORTERS[name].write(small(), tmp_path / "nowhere" / "circuit.out")
    assert [p.name for p in tmp_path.iterdir()] == ["circuit.out"]


@pytest.mark.parametrize("name", EXPORTERS)
def test_circuits_without_nodes_or_edges_can_be_exported(name: str, tmp_path: Path) -> None:
    nodes = {Node.parse("mlp_0/1"): NodeScore(0.0)}
    for number, circuit in enumerate((Circuit({}, {}, (None,), "sum"), Circuit(nodes, {}, (None,), "sum"))):
        path = tmp_path / f"{number}.out"
        EXPORTERS[name].write(circuit, path)
        assert READERS[name](path).number_of_nodes() == circuit.n_nodes


def drawn(circuit: Circuit, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What Gephi is told of each node: size, colour, position."""
    path = tmp_path / "circuit.gexf"
    fc.export.gexf(circuit, path, overwrite=True)
    found = {}
    root = ET.parse(path).getroot()
    uri = root.tag[1 : root.tag.index("}")]
    for node in root.iter(f"{{{uri}}}node"):
        viz = {child.tag.rpartition("}")[2]: child.attrib for child in node if "viz" in child.tag}
        found[node.attrib["id"]] = {
            "size": float(viz["size"]["value"]),
            "colour": tuple(int(viz["color"][c]) for c in "rgb"),
            "at": (float(viz["position"]["x"]), float(viz["position"]["y"])),
        }
    return found


@quick
@given(circuit=circuits())
def test_the_picture_says_layer_place_size_and_sign(circuit: Circuit, tmp_path: Path) -> None:
    shown = drawn(circuit, tmp_path)
    nodes = [(node, score.effect, shown[str(node)]) for node, score in circuit.nodes.items()]
    assert len({drawing["at"] for drawing in shown.values()}) == len(shown)
    for a, effect_a, one in nodes:
        red, _, blue = one["colour"]
        assert (blue > red) == (effect_a > 0)
        assert (red > blue) == (effect_a < 0)
        assert one["at"][1] < shown.get(METRIC, {"at": (0, math.inf)})["at"][1]
        for b, effect_b, other in nodes:
            if a.site < b.site:
                assert one["at"][1] < other["at"][1]
            if a.site == b.site:
                assert one["at"][1] == other["at"][1]
            if abs(effect_a) > abs(effect_b):
                assert one["size"] >= other["size"]
            if circuit.places.index(a.place) < circuit.places.index(b.place):
                assert one["at"][0] < other["at"][0]
