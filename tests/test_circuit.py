"""Circuits: what they refuse, and that saving, loading and networkx lose nothing."""

from __future__ import annotations

import copy
import errno
import json
import math
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, Endpoint, NodeScore
from featcircuits.model.nodes import AGGREGATES, METRIC, Node, Place, input_node
from featcircuits.model.sites import all_sites

SITES = all_sites(3)
finite = st.floats(-1e6, 1e6)
printable = st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn", "Zl", "Zp", "Zs", "Nd"))
roles = st.text(printable, min_size=1, max_size=8).filter(lambda role: role != "other" and not role.isdigit())
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    """Any circuit the type allows: places of each kind, errors, inputs, edges that go forward."""
    aggregate = draw(st.sampled_from(AGGREGATES))
    named: st.SearchStrategy[tuple[Place, ...]] = st.lists(roles, min_size=1, max_size=3, unique=True).map(tuple)
    places = draw({"sum": st.just((None,)), "none": st.just((0, 1, 2)), "role": named}[aggregate])
    node = st.builds(Node, st.sampled_from(SITES), st.none() | st.integers(0, 99), st.sampled_from(places))
    nodes = draw(st.lists(node, max_size=8, unique=True))
    scores = {n: NodeScore(draw(finite), draw(st.just(math.nan) | st.floats(0, 9))) for n in nodes}
    ends: list[tuple[Endpoint, Endpoint]] = [(n, METRIC) for n in nodes]
    ends += [(a, b) for a in nodes for b in nodes if a.site < b.site]
    ends += [(input_node(n.place), n) for n in nodes if n.site.kind == "embed"]
    chosen = draw(st.lists(st.sampled_from(ends), max_size=12, unique=True)) if ends else []
    edges = {edge: draw(finite) for edge in chosen}
    manifest = draw(st.dictionaries(texts, st.integers(-(2**63), 2**63 - 1) | texts, max_size=2))
    known = [*nodes, METRIC, *(input_node(place) for place in places)]
    names = st.text(printable, min_size=1, max_size=8)
    labels = draw(st.dictionaries(st.sampled_from(known), names, max_size=2))
    return Circuit(scores, edges, places, aggregate, manifest, labels)


def shown(circuit: Circuit) -> dict[str, str]:
    """Labels as viewers get them: of nodes, and of what edges name."""
    return dict(circuit.to_networkx().nodes(data="label"))


def same(a: Circuit, b: Circuit) -> bool:
    """Equality that takes two unknown standard errors as equal, manifest included."""
    rows = [{n: tuple(map(repr, s)) for n, s in c.nodes.items()} for c in (a, b)]
    return rows[0] == rows[1] and (a.edges, a.places, a.aggregate, a.manifest, shown(a)) == (
        b.edges, b.places, b.aggregate, b.manifest, shown(b),
    )  # fmt: skip


A, B, C = (Node.parse(name) for name in ("embed/3@0", "mlp_1/error@1", "resid_2/7@1"))


def small() -> Circuit:
    scores = {A: NodeScore(1.5, 0.1), B: NodeScore(-0.5), C: NodeScore(2.0, 0.2)}
    edges: dict[tuple[Endpoint, Endpoint], float] = {
        (input_node(0), A): 1.5, (A, B): 0.25, (B, C): -1.0, (C, METRIC): 2.0,
    }  # fmt: skip
    return Circuit(scores, edges, (0, 1), "none", {"seed": 0})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(circuit=circuits())
def test_saving_and_loading_lose_nothing(circuit: Circuit, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    circuit.save(first, overwrite=True)
    loaded = Circuit.load(first)
    assert same(loaded, circuit)
    loaded.save(second, overwrite=True)
    assert first.read_bytes() == second.read_bytes()


@settings(max_examples=60, deadline=None)
@given(circuit=circuits())
def test_networkx_and_back_lose_nothing(circuit: Circuit) -> None:
    graph = circuit.to_networkx()
    assert same(Circuit.from_networkx(graph), circuit)
    assert graph.number_of_edges() == circuit.n_edges
    kinds = [data["kind"] for _, data in graph.nodes(data=True)]
    assert sum(kind in ("feature", "error") for kind in kinds) == circuit.n_nodes


@settings(max_examples=60, deadline=None)
@given(circuit=circuits())
def test_node_names_read_back(circuit: Circuit) -> None:
    for node in circuit.nodes:
        assert Node.parse(str(node)) == node


def test_the_graph_carries_the_documented_attributes() -> None:
    graph = small().to_networkx()
    assert graph.nodes["resid_2/7@1"] == {
        "kind": "feature", "site": "resid_2", "site_kind": "resid", "layer": 2, "feature": 7, "place": "1",
        "words": "", "effect": 2.0, "label": "resid_2/7@1", "standard_error": 0.2, "influence": 1.0,
    }  # fmt: skip
    assert graph.nodes["mlp_1/error@1"]["kind"] == "error"
    assert "standard_error" not in graph.nodes["mlp_1/error@1"]
    assert graph.nodes["metric"]["layer"] == -1
    assert graph.edges["mlp_1/error@1", "resid_2/7@1"] == {"weight": -1.0, "sign": -1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": {(C, A): 1.0}}, "runs against the forward order"),
        ({"edges": {(Node.parse("mlp_0/1@0"), C): 1.0}}, "an end that is not in the circuit"),
        ({"edges": {(METRIC, C): 1.0}}, "an end that is not in the circuit"),
        ({"edges": {(A, C): math.inf}}, "weight of embed/3@0 -> resid_2/7@1 is inf"),
        ({"nodes": {A: NodeScore(math.nan)}, "edges": {}}, "the effect of embed/3@0 is nan"),
        ({"places": (1,)}, "embed/3@0 is at a place that is not among"),
        (
            {"nodes": {A: NodeScore(1.0, -0.1)}, "edges": {}},
            r"standard error of embed/3@0 is -0\.1; give a number from 0 on",
        ),
        ({"nodes": {A: NodeScore(1.0, math.inf)}, "edges": {}}, "standard error of embed/3@0 is inf"),
        ({"nodes": {A: NodeScore(10**400)}, "edges": {}}, "the effect of embed/3@0 is a number of about 400 digits"),
        ({"nodes": {A: NodeScore(cast(Any, "1"))}, "edges": {}}, "the effect of embed/3@0 is '1'"),
        ({"nodes": {A: 1.5}, "edges": {}}, r"score of embed/3@0 is 1\.5; give NodeScore"),
        ({"nodes": {A._replace(feature=-1): NodeScore(1.0)}, "edges": {}}, "-1 is not the number of a feature"),
        ({"nodes": {A._replace(feature=2.5): NodeScore(1.0)}, "edges": {}}, "2.5 is not the number of a feature"),
        ({"nodes": [A], "edges": {}}, "nodes is .* must be a mapping"),
        ({"edges": {A: 1.0}}, "is not an edge; give a pair"),
        ({"edges": {(A, "rubbish"): 1.0}}, "'rubbish' is not a node"),
        ({"edges": {(A, C): True}}, "weight of embed/3@0 -> resid_2/7@1 is True"),
        ({"aggregate": "mean"}, "unknown aggregate 'mean'; known: none, sum, role"),
        ({"places": (0, 1, 1)}, "a place occurs twice"),
        ({"places": ()}, "give a list of at least one place"),
        ({"places": "01"}, "places is '01'"),
        ({"places": (0, 1, None)}, "place None cannot be one: with aggregate='none' a place is a token position"),
        ({"places": (0, 1, True)}, "place True cannot be one"),
        ({"places": (0, 1, 2.0)}, r"place 2\.0 cannot be one"),
        ({"places": (0, 1, -1)}, "-1 is not a place"),
        ({"places": (0, 1, "subject")}, "place 'subject' cannot be one"),
        ({"aggregate": "sum"}, "place 0 cannot be one: with aggregate='sum' a place is None"),
        ({"aggregate": "role", "places": ("a\nb",)}, "cannot be printed"),
        ({"aggregate": "role", "places": ("7",)}, "'7' cannot be a role's name"),
        ({"aggregate": "role", "places": ("",)}, "role '' is empty"),
        ({"manifest": [1]}, "manifest is .1.; it must be a mapping"),
    ],
)
def test_circuits_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    from dataclasses import replace

    with pytest.raises(fc.InputError, match=message):
        replace(small(), **change)


def test_a_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "circuit.safetensors"
    small().save(path)
    before = path.read_bytes()
    with pytest.raises(fc.InputError, match="exists; choose another name or pass overwrite=True"):
        Circuit({}, {}, (0,), "none").save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(fc.InputError, match=r"circuit.safetensors cannot be written: the disk is full"):
        small().save(tmp_path / "circuit.safetensors")
    assert list(tmp_path.iterdir()) == []


def damaged(path: Path, **changes: Any) -> None:
    """A saved circuit with some of its record or tables replaced."""
    from safetensors import safe_open

    small().save(path, overwrite=True)
    with safe_open(path, "np") as file:
        record = json.loads(file.metadata()["circuit"])
        arrays = {name: file.get_tensor(name) for name in ("scores", "edges", "weights")}
    record |= {key: value for key, value in changes.items() if key not in arrays}
    arrays |= {key: value for key, value in changes.items() if key in arrays}
    save_file(arrays, path, {"circuit": json.dumps(record)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "circuit format 99; this version reads format 2"),
        ({"nodes": ["embed/3@0"]}, "its tables do not fit each other"),
        ({"nodes": ["embed/3@0", "embed/3@0", "resid_2/7@1"]}, "a node occurs twice"),
        ({"nodes": ["embed/3@0", "rubbish", "resid_2/7@1"]}, "'rubbish' is not a node"),
        ({"edges": np.array([[0, 1], [1, 2], [2, 9], [0, 2]])}, "an edge names a node that is not there"),
        ({"edges": np.array([[0, 1], [1, 2], [2, -1], [0, 2]])}, "an edge names a node that is not there"),
        ({"weights": np.array([1.0])}, "its tables do not fit each other"),
        ({"weights": np.array([1.0, np.nan, 1.0, 1.0])}, "the weight of"),
        ({"weights": np.array([1.0, np.inf, 1.0, 1.0])}, "the weight of"),
        ({"edges": np.array([[0, 1], [0, 1], [1, 2], [2, 3]])}, "edge embed/3@0 -> mlp_1/error@1 occurs twice"),
        ({"edges": np.array([[0, 1], [1, 2], [2, 3], [4, 0]], dtype=np.int32)}, "its edges are int32 numbers"),
        ({"scores": np.ones((3, 2), dtype=np.int64)}, "its scores are int64 numbers, and must be float64"),
        ({"scores": np.ones((3, 2), dtype=np.float32)}, "its scores are float32 numbers"),
        ({"weights": np.ones(4, dtype=np.int64)}, "its weights are int64 numbers"),
        ({"scores": np.array([[1.0, -1.0]] * 3)}, "the standard error of embed/3@0 is -1"),
        ({"scores": np.array([[1.0, np.inf]] * 3)}, "the standard error of embed/3@0 is inf"),
        ({"scores": np.array([[np.nan, 0.0]] * 3)}, "the effect of embed/3@0 is nan"),
        ({"places": 3}, "its places is 3, and must be a list"),
        ({"places": {"0": 1}}, "its places is .*, and must be a list"),
        ({"places": [0, 1, 0]}, "a place occurs twice"),
        ({"places": [0, 1.0]}, "place 1.0 cannot be one"),
        ({"places": [0, [1]]}, "place .1. cannot be one"),
        ({"places": [0, 1, "verb"]}, "place 'verb' cannot be one"),
        ({"aggregate": "mean"}, "unknown aggregate 'mean'"),
        ({"aggregate": None}, "its aggregate is None, and must be a text"),
        ({"aggregate": ["none"]}, "its aggregate is .*, and must be a text"),
        ({"aggregate": "sum"}, "with aggregate='sum' a place is None"),
        ({"manifest": None}, "its manifest is None, and must be a mapping"),
        ({"manifest": [["seed", 0]]}, "its manifest is .*, and must be a mapping"),
        ({"manifest": "seed"}, "its manifest is 'seed', and must be a mapping"),
        ({"ends": None}, "its ends is None, and must be a list"),
        ({"ends": ["metric", "nothing"]}, "'nothing' is not a node"),
        ({"ends": ["metric", "metric"]}, "a node occurs twice"),
        ({"ends": [0, 1]}, "0 is not a node"),
        ({"nodes": {"embed/3@0": 1}}, "its nodes is .*, and must be a list"),
        ({"nodes": ["embed/3@0", 7, "resid_2/7@1"]}, "7 is not a node"),
        ({"nodes": ["embed/03@0", "mlp_1/error@1", "resid_2/7@1"]}, "'embed/03@0' is not a node"),
        ({"nodes": ["embed/3@0", "mlp_1/error@1", "resid_2/7@9"]}, "is at a place that is not among"),
        ({"nodes": ["embed/3@0", "mlp_1/error@1", "mlp_01/7@1"]}, "unknown site 'mlp_01'"),
        ({"format": True}, "circuit format True"),
        ({"format": "2"}, "circuit format '2'"),
    ],
)
def test_damaged_files_end_in_one_message(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "circuit.safetensors"
    damaged(path, **changes)
    with pytest.raises(fc.InputError, match=message) as caught:
        Circuit.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_files_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "circuit.safetensors"
    with pytest.raises(fc.InputError, match="no such circuit file"):
        Circuit.load(path)

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "fired",))

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(fc.InputError, match="not a circuit file"):
        Circuit.load(path)
    assert not (tmp_path / "fired").exists()
    save_file({"weights": np.zeros(2)}, path)
    with pytest.raises(fc.InputError, match="not a circuit file"):
        Circuit.load(path)
    small().save(path, overwrite=True)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(fc.InputError, match="not a circuit file, or a damaged one"):
        Circuit.load(path)


def test_a_graph_of_something_else_is_refused() -> None:
    import networkx as nx

    with pytest.raises(fc.InputError, match="the graph is not a circuit's: it lacks 'places'"):
        Circuit.from_networkx(nx.DiGraph([(1, 2)]))


@pytest.mark.parametrize(
    "name",
    [
        "resid_3/05", "resid_3/٣", "resid_٣/3", "resid_3/1_0", "resid_3/+5", "resid_3/-5", "resid_3/ 5", "resid_3/5 ",
        "resid_3/1e3", "resid_3/1.0", "resid_03/1", "resid_3/" + "9" * 400, "resid_" + "9" * 400 + "/1", "resid_3/5@07",
        "resid_3/5@٣", "resid_3/5@²", "resid_3/5@", "resid_3/5@a\nb", "resid_3/", "/5", "resid_3/error5", "Resid_3/5",
        "resid_3/5\n", "", "resid_3/5@" + "x" * 5000, 5, None, ("resid_3", 5), b"resid_3/5",
    ],
)  # fmt: skip
def test_what_is_no_node_is_refused_in_a_short_line(name: Any) -> None:
    with pytest.raises(fc.InputError, match="node|site|cannot be a role's name|has 5000 characters") as caught:
        Node.parse(name)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "record", ["[1]", '"x"', "1", "null", "{}", '{"format": 2', '{"format": 2, "format": 2}', "[" * 9999]
)
def test_records_of_another_type_are_refused(record: str, tmp_path: Path) -> None:
    path = tmp_path / "circuit.safetensors"
    save_file(
        {"scores": np.zeros((0, 2)), "edges": np.zeros((0, 2), np.int64), "weights": np.zeros(0)},
        path,
        {"circuit": record},
    )
    with pytest.raises(fc.InputError, match=path.name) as caught:
        Circuit.load(path)
    assert "\n" not in str(caught.value)


def test_names_stand_for_nodes_and_edges() -> None:
    circuit: Any = small()
    assert circuit.nodes["resid_2/7@1"] is circuit.nodes[C]
    assert circuit.edges["mlp_1/error@1", "resid_2/7@1"] == -1.0
    assert circuit.edges[B, "resid_2/7@1"] == circuit.edges["mlp_1/error@1", C] == -1.0
    assert circuit.edges["resid_2/7@1", "metric"] == 2.0
    assert "resid_2/7@1" in circuit.nodes
    assert "resid_2/8@1" not in circuit.nodes
    assert "rubbish" not in circuit.nodes
    assert 5 not in circuit.nodes
    assert circuit.nodes.get("mlp_1/error@1") == circuit.nodes[B]
    assert circuit.nodes.get("mlp_1/3@1") is None
    assert circuit.nodes.get("rubbish", 0) == 0
    assert list(circuit.nodes) == [A, B, C]
    assert dict(circuit.nodes) == circuit.nodes
    assert circuit.nodes_at("mlp_1") == [B]
    with pytest.raises(KeyError, match="no node resid_2/8@1 here; there are: embed/3@0, mlp_1/error@1, resid_2/7@1"):
        circuit.nodes["resid_2/8@1"]
    with pytest.raises(fc.InputError, match="no node"):
        circuit.nodes["resid_2/8@1"]
    with pytest.raises(fc.InputError, match="'rubbish' is not a node"):
        circuit.nodes["rubbish"]
    with pytest.raises(KeyError, match="no edge"):
        circuit.edges[A, METRIC]


def test_a_circuit_is_made_from_names() -> None:
    nodes: Any = {str(node): score for node, score in small().nodes.items()}
    edges: Any = {(str(a), str(b)): weight for (a, b), weight in small().edges.items()}
    made = Circuit(nodes, edges, (0, 1), "none", {"seed": 0})
    assert same(made, small())
    assert list(made.nodes) == [A, B, C]
    assert same(pickle.loads(pickle.dumps(made)), small())
    assert same(copy.deepcopy(made), small())


def test_changed_labels_survive_networkx_and_the_file(tmp_path: Path) -> None:
    graph = small().to_networkx()
    graph.nodes["mlp_1/error@1"]["label"] = "what the dictionary misses"
    graph.nodes[METRIC]["label"] = "is - are"
    circuit = Circuit.from_networkx(graph)
    assert dict(circuit.labels) == {B: "what the dictionary misses", METRIC: "is - are"}
    circuit.save(tmp_path / "labelled.safetensors")
    assert Circuit.load(tmp_path / "labelled.safetensors").labels == circuit.labels
    assert dict(circuit.to_networkx().nodes(data="label"))["mlp_1/error@1"] == "what the dictionary misses"
    assert Circuit.from_networkx(small().to_networkx()).labels == {}


@pytest.mark.parametrize("label", ["two\nlines", "", "\x1b[31m", " a", "x" * 101, 7])
def test_labels_are_names(label: Any) -> None:
    with pytest.raises(fc.InputError, match="the label of embed/3@0"):
        Circuit({A: NodeScore(1.0)}, {}, (0,), "none", labels={A: label})


def test_a_label_of_nothing_is_refused() -> None:
    with pytest.raises(fc.InputError, match="resid_2/7@1 has a label, but is not in the circuit"):
        Circuit({A: NodeScore(1.0)}, {}, (0,), "none", labels={C: "no such node"})


def test_inputs_are_labelled_with_their_words() -> None:
    manifest = {"task": {"words": {"0": "boy | girl | ...", "1": "is"}}}
    circuit = Circuit({A: NodeScore(1.0)}, {("input@0", A): 1.0, (A, METRIC): 1.0}, (0, 1), "none", manifest)
    graph = circuit.to_networkx()
    assert graph.nodes["input@0"]["label"] == "input@0: boy | girl | ..."
    assert graph.nodes["embed/3@0"]["words"] == "boy | girl | ..."
    assert Circuit.from_networkx(graph).labels == {}


def test_a_graph_whose_effect_no_float_holds_is_refused() -> None:
    graph = small().to_networkx()
    graph.nodes["embed/3@0"]["effect"] = 10**400
    with pytest.raises(fc.InputError, match="not a circuit's"):
        Circuit.from_networkx(graph)
