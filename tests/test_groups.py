"""Groups: chosen by conditions, contracted with every total conserved, carried by files, proposed by clustering."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import featcircuits as fc
from featcircuits.circuit.circuit import NodeScore
from featcircuits.cli import app
from featcircuits.groups.proposing import silhouette
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site

SITES = [Site(layer, kind) for layer in range(3) for kind in ("attn", "resid")]


@st.composite
def grouped_circuits(draw: st.DrawFn) -> fc.Circuit:
    """Random nodes, edges in forward order, and groups of some of the nodes."""
    spots = st.tuples(st.sampled_from(SITES), st.integers(0, 3), st.integers(0, 1))
    nodes = [Node(*spot) for spot in draw(st.lists(spots, min_size=2, max_size=12, unique=True))]
    numbers = st.floats(-4, 4, allow_nan=False).map(lambda value: round(value, 3))
    pairs = [(a, b) for a in nodes for b in nodes if a.site < b.site] + [(a, METRIC) for a in nodes]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=30))
    edges: Any = {pair: draw(numbers) for pair in chosen}
    homes = draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=len(nodes), max_size=len(nodes)))
    groups = {name: [node for node, home in zip(nodes, homes, strict=True) if home == name] for name in ("a", "b")}
    scores = {node: NodeScore(draw(numbers)) for node in nodes}
    return fc.Circuit(scores, edges, (0, 1), "none", groups={k: v for k, v in groups.items() if v})  # type: ignore[arg-type]


@settings(deadline=None)
@given(circuit=grouped_circuits())
def test_contraction_conserves_every_total(circuit: fc.Circuit) -> None:
    graph, home = circuit.grouped(), {node: name for name, own in circuit.groups.items() for node in own}
    effects = dict(graph.nodes(data="effect"))
    assert sum(effects.values()) == pytest.approx(sum(score.effect for score in circuit.nodes.values()), abs=1e-9)
    inside = sum(data.get("inside", 0.0) for _, data in graph.nodes(data=True))
    assert graph.size("weight") + inside == pytest.approx(sum(circuit.edges.values()), abs=1e-9)
    for name, own in circuit.groups.items():
        assert effects[name] == pytest.approx(sum(circuit.nodes[node].effect for node in own), abs=1e-9)  # type: ignore[index]
        members = set(own)
        into = sum(w for (a, b), w in circuit.edges.items() if b in members and a not in members)
        out = sum(w for (a, b), w in circuit.edges.items() if a in members and b not in members)
        assert graph.in_degree(name, "weight") == pytest.approx(into, abs=1e-9)
        assert graph.out_degree(name, "weight") == pytest.approx(out, abs=1e-9)
        assert graph.nodes[name]["members"].split("\n") == [str(node) for node in own]
    for (a, b), weight in circuit.edges.items():
        if a not in home and b not in home:
            assert graph.edges[str(a), str(b)]["weight"] == weight


@settings(deadline=None, max_examples=30)
@given(circuit=grouped_circuits())
def test_networkx_and_files_keep_groups(circuit: fc.Circuit, tmp_path_factory: pytest.TempPathFactory) -> None:
    def as_sets(one: fc.Circuit) -> dict[str, set[str]]:
        return {name: set(map(str, own)) for name, own in one.groups.items()}

    assert as_sets(fc.Circuit.from_networkx(circuit.to_networkx())) == as_sets(circuit)
    folder = tmp_path_factory.mktemp("groups")
    circuit.save(folder / "circuit.safetensors")
    assert fc.Circuit.load(folder / "circuit.safetensors").groups == circuit.groups
    fc.groups.write(folder / "groups.json", circuit.groups)
    assert fc.groups.read(folder / "groups.json") == circuit.groups


@pytest.fixture(scope="module")
def traced() -> tuple[Any, fc.Circuit]:
    model = fc.load(suite="grammar-4l")
    task = fc.Task.from_jsonl(model.suite.task_file("agreement_rc", "train"), model.tokenizer).take(8)  # type: ignore[union-attr]
    known = fc.Dossiers.open(model.suite.folder)  # type: ignore[union-attr]
    return model, fc.trace(model, task, keep_nodes="top=40").circuit.labelled(known.labels)


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("site=resid_*", lambda node, score, label: node.site.kind == "resid"),
        ("site=resid_2, sign=-", lambda node, score, label: str(node.site) == "resid_2" and score.effect < 0),
        ("layer=1-2", lambda node, score, label: 1 <= node.site.layer <= 2),
        ("place=5, effect>0.5", lambda node, score, label: node.place == 5 and score.effect > 0.5),
        ("effect<-0.05", lambda node, score, label: score.effect < -0.05),
        ("kind=feature, layer=-1", lambda node, score, label: not node.is_error and node.site.layer == -1),
        ("label~HAS / IS", lambda node, score, label: "has / is" in label.lower()),
    ],
)
def test_conditions_mean_what_they_say(traced: tuple[Any, fc.Circuit], text: str, test: Any) -> None:
    _, circuit = traced
    expected = [n for n, score in circuit.nodes.items() if test(n, score, circuit.labels.get(n, ""))]
    if not expected:
        with pytest.raises(fc.InputError, match="means none of the circuit's"):
            fc.groups.choose(circuit, text)
    else:
        assert list(fc.groups.choose(circuit, text)) == expected


def test_bad_texts_and_groups_are_refused(traced: tuple[Any, fc.Circuit]) -> None:
    _, circuit = traced
    first, second = list(circuit.nodes)[:2]
    for text, said in (
        ("colour=red", "is not a condition"),
        ("site=resid_2, nonsense", "is not a condition"),
        ("layer=two", "give a layer or a range"),
        ("place=99", "places are"),
        ("sign=up", r"give \+ or -"),
        ("resid_2/99999@5", "has no node resid_2/99999@5"),
        ("effect>1e9", "means none"),
        ("site=mlp_77", "no site fits"),
    ):
        with pytest.raises(fc.InputError, match=said):
            fc.groups.choose(circuit, text)
    for groups, said in (
        ({"a": [first], "b": [first]}, "groups do not overlap"),
        ({"a": []}, "has no nodes"),
        ({"a": ["resid_2/99999@5"]}, "is not in the circuit"),
        ({str(second): [first]}, "has the name of a node"),
        ({"a\nb": [first]}, "name of a group"),
    ):
        with pytest.raises(fc.InputError, match=said):
            circuit.with_groups(groups)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"format": "other"},
        {"version": 9},
        {"groups": 3},
        {"groups": [{"name": 1, "nodes": []}]},
        {"groups": [{"name": "a", "nodes": ["x"]}]},
        {"groups": [{"name": "a", "nodes": []}, {"name": "a", "nodes": []}]},
    ],
)
def test_other_files_are_no_groups(tmp_path: Path, content: Any) -> None:
    usual = {"format": "featcircuits-groups", "version": 1, "groups": []}
    whole = {**usual, **content} if isinstance(content, dict) else content
    (tmp_path / "groups.json").write_text(json.dumps(whole))
    with pytest.raises(fc.InputError, match=re.escape("groups.json")):
        fc.groups.read(tmp_path / "groups.json")


def test_the_silhouette_is_that_of_its_definition() -> None:
    draw = np.random.default_rng(0)
    points, clusters = draw.normal(size=(12, 3)), np.array([1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    values = []
    for i in range(12):
        own = [j for j in range(12) if clusters[j] == clusters[i] and j != i]
        if not own:
            values.append(0.0)
            continue
        a = np.mean(distance[i, own])
        b = min(np.mean(distance[i, clusters == other]) for other in set(clusters) - {clusters[i]})
        values.append((b - a) / max(a, b))
    assert silhouette(distance, clusters) == pytest.approx(np.mean(values), rel=1e-12)


def test_proposed_groups_are_those_that_were_planted() -> None:
    """Three sets of nodes whose edges go to the same readers."""
    early, late = Site(0, "resid"), Site(2, "resid")
    readers = [Node(late, number, 0) for number in range(3)]
    sets = [[Node(early, 10 * turn + number, 0) for number in range(4)] for turn in range(3)]
    pairs = [(node, reader) for turn, reader in enumerate(readers) for node in sets[turn]]
    edges: dict[Any, float] = {(node, reader): 1.0 + 0.1 * (node.feature or 0) for node, reader in pairs}
    edges |= {(reader, METRIC): 1.0 for reader in readers}
    circuit = fc.Circuit({node: NodeScore(1.0) for node in (*readers, *sum(sets, []))}, edges, (0,), "none")
    found = fc.groups.propose(circuit)
    assert {frozenset(own) for own in found.groups.values()} >= {frozenset(own) for own in sets}
    assert found.silhouette == max(found.tried.values())
    with pytest.raises(fc.InputError, match="groups can be proposed for 4"):
        fc.groups.propose(fc.Circuit({readers[0]: NodeScore(1.0)}, {}, (0,), "none"))


def test_proposals_use_all_that_is_known(traced: tuple[Any, fc.Circuit]) -> None:
    model, circuit = traced
    task = fc.Task.from_jsonl(model.suite.task_file("agreement_rc", "train"), model.tokenizer).take(8)
    effects = fc.node_effects(model, task)
    known = fc.Dossiers.open(model.suite.folder)
    found = fc.groups.propose(circuit, model, effects=effects, dossiers=known, count=6)
    features = [node for node in circuit.nodes if not node.is_error]
    grouped = [node for own in found.groups.values() for node in own]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= set(features)
    assert list(found.tried) == [6]
    assert circuit.with_groups(found.groups).grouped().number_of_nodes() < circuit.to_networkx().number_of_nodes()


def test_the_command_line_keeps_groups_in_every_export(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return done.output

    call("trace", "--limit", "8", "--keep-nodes", "top=30", "-o", str(run))
    call("groups", str(run), "--add", "the subject: site=resid_*, place=1", "--add", "rest: place=5, kind=feature")
    assert "the subject" in call("groups", str(run))
    call("export", str(run), "--to", "gexf,graphml,json")
    found = json.loads((run / "circuit.json").read_text())
    groups = {row["id"]: row.get("group") for row in found["nodes"]}
    named = {name: group for name, group in groups.items() if group}
    assert "the subject" in named.values()
    for graph in (nx.read_gexf(run / "circuit.gexf"), nx.read_graphml(run / "circuit.graphml")):
        assert {name: group for name, group in graph.nodes(data="group") if group} == named
    call("export", str(run), "--to", "gexf,graphml,json", "--grouped", "--overwrite")
    small = json.loads((run / "circuit.json").read_text())
    assert len(small["nodes"]) < len(found["nodes"])
    assert sum(row["effect"] for row in small["nodes"]) == pytest.approx(sum(row["effect"] for row in found["nodes"]))
    for graph in (nx.read_gexf(run / "circuit.gexf"), nx.read_graphml(run / "circuit.graphml")):
        assert graph.nodes["the subject"]["kind"] == "group"
    call("groups", str(run), "--remove", "rest")
    assert list(fc.groups.read(run / "groups.json")) == ["the subject"]
    call("groups", str(run), "--propose", "--count", "5")
    for arguments, said in (
        (["--add", "no colon"], "give a name, a colon"),
        (["--remove", "nobody"], "there is no group"),
        (["--count", "5"], "--count is for --propose"),
        (["--propose", "--add", "a: place=1"], "leave out --add"),
    ):
        done = CliRunner().invoke(app, ["groups", str(run), *arguments])
        assert done.exit_code == 2
        assert said in str(done.exception) + done.output + done.stderr
