"""Exports read back by networkx, and what a viewer is told."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.circuit.layout import drawn
from featcircuits.export import EXPORTERS as ALL
from featcircuits.model.nodes import METRIC, Node
from featcircuits.provenance.manifest import words_at
from tests.test_circuit import circuits, same, small
from tests.test_pictures import PICTURES

READERS: dict[str, Callable[[Path], nx.DiGraph]] = {
    "gexf": nx.read_gexf,
    "graphml": nx.read_graphml,
    "json": lambda path: nx.node_link_graph(json.loads(path.read_text()), edges="edges"),
}
GEXF, VIZ = "{http://www.gexf.net/1.2draft}", "{http://www.gexf.net/1.2draft/viz}"
GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"
NUMBER = r"-?\d+(\.\d+)?(e[-+]?\d+)?"
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


EXPORTERS = {name: exporter for name, exporter in ALL.items() if not exporter.folder}
"""Those of any circuit; test_neuronpedia has the one of a single prompt."""


def test_every_exporter_is_tested() -> None:
    assert {*READERS, *PICTURES} == set(EXPORTERS)


DRAWN = ("viz", "id", "x", "y", "size", "color", "thickness")
"""What an export adds for viewers."""


def plain(graph: nx.DiGraph) -> nx.DiGraph:
    """Without what is there for viewers alone."""
    for data in (*(data for _, data in graph.nodes(data=True)), *(data for _, _, data in graph.edges(data=True))):
        for name in DRAWN:
            data.pop(name, None)
    return graph


@pytest.mark.parametrize("name", READERS)
@quick
@given(circuit=circuits())
def test_an_export_reads_back_equal(name: str, circuit: Circuit, tmp_path: Path) -> None:
    path = tmp_path / f"circuit{EXPORTERS[name].suffix}"
    EXPORTERS[name].write(circuit, path, overwrite=True)
    found, expected = plain(READERS[name](path)), circuit.to_networkx()
    assert dict(found.nodes(data=True)) == dict(expected.nodes(data=True))
    assert {(a, b): d for a, b, d in found.edges(data=True)} == {(a, b): d for a, b, d in expected.edges(data=True)}
    if name != "gexf":  # GEXF has no place for a graph's attributes
        assert same(Circuit.from_networkx(found), circuit)


@pytest.mark.parametrize("name", READERS)
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


@pytest.mark.parametrize("name", READERS)
def test_circuits_without_nodes_or_edges_can_be_exported(name: str, tmp_path: Path) -> None:
    nodes = {Node.parse("mlp_0/1"): NodeScore(0.0)}
    for number, circuit in enumerate((Circuit({}, {}, (None,), "sum"), Circuit(nodes, {}, (None,), "sum"))):
        path = tmp_path / f"{number}.out"
        EXPORTERS[name].write(circuit, path)
        assert READERS[name](path).number_of_nodes() == circuit.n_nodes


def shown_in_gexf(path: Path) -> dict[str, dict[str, Any]]:
    """What Gephi is told of each node: size, colour, position."""
    found = {}
    for node in ET.parse(path).getroot().iter(f"{GEXF}node"):
        viz = {child.tag.removeprefix(VIZ): child.attrib for child in node}
        found[node.attrib["id"]] = {
            "size": float(viz["size"]["value"]),
            "color": "#" + "".join(f"{int(viz['color'][c]):02x}" for c in "rgb"),
            "x": float(viz["position"]["x"]),
            "y": float(viz["position"]["y"]),
        }
    return found


@quick
@given(circuit=circuits())
def test_every_format_draws_the_same_picture(circuit: Circuit, tmp_path: Path) -> None:
    expected = {
        name: {key: data[key] for key in ("size", "color", "x", "y")} for name, data in drawn(circuit).nodes(data=True)
    }
    for name in READERS:
        exporter = EXPORTERS[name]
        path = tmp_path / f"circuit{exporter.suffix}"
        exporter.write(circuit, path, overwrite=True)
        nodes = READERS[name](path).nodes(data=True)
        found = {end: {key: data.get(key) for key in ("size", "color", "x", "y")} for end, data in nodes}
        assert (shown_in_gexf(path) if name == "gexf" else found) == expected


def between(one: float, other: float) -> bool:
    """Well apart: no label of one covers the other."""
    return abs(one - other) >= 60.0


@quick
@given(circuit=circuits())
def test_the_picture_says_layer_place_size_and_sign(circuit: Circuit) -> None:
    shown: dict[str, dict[str, Any]] = dict(drawn(circuit).nodes(data=True))
    nodes = [(node, score.effect, shown[str(node)]) for node, score in circuit.nodes.items()]
    top = shown.get(METRIC, {"y": math.inf})["y"]
    for a, effect_a, one in nodes:
        assert one["color"] == ("#0072b2" if effect_a > 0 else "#d55e00" if effect_a < 0 else "#8c8c8c")
        assert one["y"] < top
        assert all(other["y"] < one["y"] for name, other in shown.items() if name.startswith("input"))
        for b, effect_b, other in nodes:
            if a != b:
                assert between(one["x"], other["x"]) or between(one["y"], other["y"])
            if a.site < b.site:
                assert one["y"] < other["y"]
            if abs(effect_a) > abs(effect_b):
                assert one["size"] >= other["size"]
            if circuit.places.index(a.place) < circuit.places.index(b.place):
                assert one["x"] < other["x"]


def test_sites_of_a_layer_stand_closer_than_layers_and_an_error_ends_its_row() -> None:
    names = ("resid_0/1@0", "attn_1/error@0", "attn_1/5@0", "mlp_1/2@0", "resid_1/3@0")
    nodes = {Node.parse(name): NodeScore(9.0 - rank) for rank, name in enumerate(names)}
    shown = dict(drawn(Circuit(nodes, {}, (0,), "none")).nodes(data=True))
    below, error, attn, mlp, resid = (shown[name] for name in names)
    assert error["y"] == attn["y"] < mlp["y"] < resid["y"]
    assert attn["x"] < error["x"]
    assert resid["y"] - mlp["y"] < attn["y"] - below["y"]


def crowd(count: int) -> Circuit:
    """Nodes at every site and place of a larger model."""
    nodes = {
        Node.parse(f"{kind}_{layer}/{number}@{place}"): NodeScore(1.0 + number)
        for number in range(-(-count // 144))
        for kind in ("attn", "mlp", "resid")
        for layer in range(6)
        for place in range(8)
    }
    last = Node.parse("resid_5/0@7")
    return Circuit(nodes, {(last, METRIC): 1.0}, tuple(range(8)), "none")


def test_two_thousand_nodes_stay_apart_and_compact() -> None:
    shown = [data for _, data in drawn(crowd(2000)).nodes(data=True)]
    places = sorted((data["x"], data["y"]) for data in shown)
    assert len(shown) > 2000
    assert len(set(places)) == len(places)
    xs, ys = zip(*places, strict=True)
    assert 1 / 3 < (max(xs) - min(xs)) / (max(ys) - min(ys)) < 3
    assert max(xs) == pytest.approx(-min(xs))


def test_the_metric_stands_above_the_middle_and_one_node_in_its_place() -> None:
    shown = dict(drawn(small()).nodes(data=True))
    assert shown[METRIC]["x"] == 0.0
    assert shown[METRIC]["y"] == max(data["y"] for data in shown.values())
    assert dict(drawn(Circuit({}, {}, (None,), "sum")).nodes(data=True)) == {}


GRAMMAR: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "gexf": ({"version": "1\\.2|1\\.3"}, ("meta", "graph")),
    "meta": ({}, ("creator",)),
    "creator": ({}, ()),
    "graph": (
        {"defaultedgetype": "directed", "mode": "static", "idtype": "string"},
        ("attributes", "attributes", "nodes", "edges"),
    ),
    "attributes": ({"class": "node|edge", "mode": "static"}, ("attribute*",)),
    "attribute": ({"id": ".+", "title": ".+", "type": "integer|double|string"}, ()),
    "nodes": ({}, ("node*",)),
    "node": ({"id": ".+", "label": ".*"}, ("attvalues", "viz:size", "viz:position", "viz:color")),
    "edges": ({}, ("edge*",)),
    "edge": (
        {"id": ".+", "source": ".+", "target": ".+", "weight": NUMBER},
        ("attvalues", "viz:thickness", "viz:color"),
    ),
    "attvalues": ({}, ("attvalue*",)),
    "attvalue": ({"for": ".+", "value": ".*"}, ()),
    "viz:size": ({"value": NUMBER}, ()),
    "viz:thickness": ({"value": NUMBER}, ()),
    "viz:position": ({"x": NUMBER, "y": NUMBER, "z": NUMBER}, ()),
    "viz:color": (dict.fromkeys("rgb", "[0-9]{1,3}"), ()),
}
"""The part of the grammars of GEXF 1.2draft and 1.3 that circuits need, from their published RELAX NG schemas.

Element -> (its attributes with what their values look like, its children in order; `*`: any number).
"""


def check_grammar(element: ET.Element) -> None:
    name = named(element)
    attributes, children = GRAMMAR[name]
    assert set(element.attrib) == set(attributes), name
    for key, value in element.attrib.items():
        assert re.fullmatch(attributes[key], value), (name, key, value)
    found = [named(child) for child in element]
    if children and children[-1].endswith("*"):
        assert set(found) <= {children[0].removesuffix("*")}
    else:
        assert found == list(children)
    for child in element:
        check_grammar(child)


def named(element: ET.Element) -> str:
    return element.tag.replace(VIZ, "viz:").replace(GEXF, "")


def test_gexf_keeps_to_the_published_grammar(tmp_path: Path) -> None:
    fc.export.gexf(small(), tmp_path / "circuit.gexf")
    root = ET.parse(tmp_path / "circuit.gexf").getroot()
    check_grammar(root)
    types = {a.attrib["title"]: a.attrib["type"] for a in root.iter(f"{GEXF}attribute")}
    assert (types["layer"], types["feature"], types["effect"], types["sign"]) == (
        "integer",
        "integer",
        "double",
        "integer",
    )
    declared = {a.attrib["id"] for a in root.iter(f"{GEXF}attribute")}
    assert {value.attrib["for"] for value in root.iter(f"{GEXF}attvalue")} <= declared


def test_graphs_own_attributes_come_first_in_graphml(tmp_path: Path) -> None:
    """Readers that stream would give them to the last edge."""
    fc.export.graphml(small(), tmp_path / "circuit.graphml")
    (graph,) = ET.parse(tmp_path / "circuit.graphml").getroot().iter(f"{GRAPHML}graph")
    kinds = [child.tag.removeprefix(GRAPHML) for child in graph]
    assert kinds == sorted(kinds, key=["data", "node", "edge"].index)
    assert kinds[:3] == ["data", "data", "data"]


def test_igraph_reads_graphml(tmp_path: Path) -> None:
    igraph = pytest.importorskip("igraph")
    circuit = small()
    fc.export.graphml(circuit, tmp_path / "circuit.graphml")
    graph = igraph.Graph.Read_GraphML(str(tmp_path / "circuit.graphml"))
    assert graph["aggregate"] == circuit.aggregate
    found = {vertex["id"]: vertex["effect"] for vertex in graph.vs}
    assert {str(node): score.effect for node, score in circuit.nodes.items()}.items() <= found.items()
    assert sorted(edge["weight"] for edge in graph.es) == sorted(circuit.edges.values())
    assert {edge["color"] for edge in graph.es} <= {"#0072b2", "#d55e00", "#8c8c8c"}


def test_graphology_reads_gexf(tmp_path: Path) -> None:
    """sigma.js's own reader, where Node.js and the package `graphology-gexf` are at hand (NODE_PATH)."""
    script = (
        "const {parse} = require('graphology-gexf'), {DirectedGraph} = require('graphology');"
        "const g = parse(DirectedGraph, require('fs').readFileSync(process.argv[1], 'utf8'));"
        "console.log(JSON.stringify(g.export()))"
    )
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('graphology-gexf')"], capture_output=True).returncode:
        pytest.skip("needs Node.js with the packages graphology and graphology-gexf")
    circuit = small()
    fc.export.gexf(circuit, tmp_path / "circuit.gexf")
    done = subprocess.run(
        [node, "-e", script, str(tmp_path / "circuit.gexf")], capture_output=True, check=True, text=True
    )
    graph = json.loads(done.stdout)
    found = {one["key"]: one["attributes"] for one in graph["nodes"]}
    for one, score in circuit.nodes.items():
        assert found[str(one)]["effect"] == score.effect
        assert found[str(one)]["layer"] == one.site.layer
    assert sorted(edge["attributes"]["weight"] for edge in graph["edges"]) == sorted(circuit.edges.values())


HOSTILE = ("\x00", "\x08 bell \x07", "\x1b[31mred", "\ud800", "\ufffe", "</label>&<b>", "\x85\u2028", "\U0001f600")


@pytest.mark.parametrize("label", HOSTILE)
@pytest.mark.parametrize("name", ["gexf", "graphml"])
def test_labels_that_xml_forbids_are_replaced(
    name: str, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit, path = small(), tmp_path / "circuit.xml"
    graph = circuit.to_networkx()
    first = str(next(iter(circuit.nodes)))
    graph.nodes[first]["label"] = f"a{label}b"
    monkeypatch.setattr(Circuit, "to_networkx", lambda self: graph.copy())
    EXPORTERS[name].write(circuit, path)
    shown = READERS[name](path).nodes[first]["label"]
    assert shown == "a" + "".join("\ufffd" if one in "\x00\x08\x07\x1b\ud800\ufffe" else one for one in label) + "b"


def test_words_of_every_place_are_recorded() -> None:
    model = fc.load()
    task = fc.Task.from_jsonl("saes/grammar-4l/tasks/agreement_rc_train.jsonl", model.tokenizer).take(20)
    words = words_at(task, model.tokenizer)
    assert set(words) == {str(place) for place in task.places}
    assert words["2"] == "that"
    assert words["1"].endswith(" | ...")
    by_role = words_at(task.with_options(aggregate="role"), model.tokenizer)
    assert by_role["subject"] == words["1"]
    assert words_at(task.with_options(aggregate="sum"), model.tokenizer) == words_at(task, None) == {}
