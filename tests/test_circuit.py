"""Circuits: what they refuse, and that saving, loading and networkx lose nothing."""

from __future__ import annotations

import errno
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import featcircuits as fc
from featcircuits.circuit import Circuit, Endpoint, NodeScore
from featcircuits.nodes import METRIC, Node, Place, input_node
from featcircuits.sites import all_sites

SITES = all_sites(3)
finite = st.floats(-1e6, 1e6)
printable = st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn", "Zl", "Zp", "Zs", "Nd"))
roles = st.text(printable, min_size=1, max_size=8).filter(lambda role: role != "other" and not role.isdigit())


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    """Any circuit the type allows: places of each kind, errors, inputs, edges that go forward."""
    places: tuple[Place, ...] = draw(
        st.sampled_from([(None,), (0, 1, 2)]) | st.lists(roles, min_size=1, max_size=3, unique=True).map(tuple)
    )
    node = st.builds(Node, st.sampled_from(SITES), st.none() | st.integers(0, 99), st.sampled_from(places))
    nodes = draw(st.lists(node, max_size=8, unique=True))
    scores = {n: NodeScore(draw(finite), draw(st.just(math.nan) | st.floats(0, 9))) for n in nodes}
    ends: list[tuple[Endpoint, Endpoint]] = [(n, METRIC) for n in nodes]
    ends += [(a, b) for a in nodes for b in nodes if a.site < b.site]
    ends += [(input_node(n.place), n) for n in nodes if n.site.kind == "embed"]
    chosen = draw(st.lists(st.sampled_from(ends), max_size=12, unique=True)) if ends else []
    edges = {edge: draw(finite) for edge in chosen}
    manifest = draw(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=2))
    return Circuit(scores, edges, places, "role", manifest)


def same(a: Circuit, b: Circuit) -> bool:
    """Equality that takes two unknown standard errors as equal, manifest included."""
    rows = [{n: tuple(map(repr, s)) for n, s in c.nodes.items()} for c in (a, b)]
    return rows[0] == rows[1] and (a.edges, a.places, a.aggregate, a.manifest) == (
        b.edges, b.places, b.aggregate, b.manifest,
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
        "effect": 2.0, "label": "resid_2/7@1", "standard_error": 0.2,
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
        ({"places": (1,)}, "embed/3@0 stands at a place that is not among"),
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
        ({"places": 3}, "a damaged circuit file"),
        ({"manifest": None, "aggregate": None, "ends": None}, "a damaged circuit file"),
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

    with pytest.raises(fc.InputError, match="the graph is not a circuit's"):
        Circuit.from_networkx(nx.DiGraph([(1, 2)]))
