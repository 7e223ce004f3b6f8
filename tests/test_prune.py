"""Pruning rules against slow, obvious versions."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, Endpoint, NodeScore
from featcircuits.circuit.pruning import (
    Cumulative,
    Threshold,
    Top,
    beginning,
    choose,
    parse_pruning,
    prune,
    reachable,
    strongest,
)
from featcircuits.model.nodes import METRIC, Node
from tests.test_circuit import circuits

numbers = st.floats(-100, 100, allow_subnormal=False)  # half of the smallest one is 0
effects = st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0]) | numbers, max_size=15)


@settings(max_examples=200)
@given(effects=effects, value=st.floats(0, 50))
def test_threshold_keeps_what_is_strictly_above(effects: list[float], value: float) -> None:
    assert choose(effects, Threshold(value)) == [i for i, x in enumerate(effects) if abs(x) > value]


@settings(max_examples=200)
@given(effects=effects, count=st.integers(1, 20))
def test_top_keeps_the_strongest_and_the_first_of_equals(effects: list[float], count: int) -> None:
    ranked = sorted(range(len(effects)), key=lambda i: (-abs(effects[i]), i))
    assert choose(effects, Top(count)) == sorted(ranked[:count])


@settings(max_examples=200)
@given(effects=effects, share=st.floats(0.01, 1))
def test_cumulative_keeps_the_fewest_that_hold_the_share(effects: list[float], share: float) -> None:
    kept = choose(effects, Cumulative(share))
    total, held = math.fsum(map(abs, effects)), math.fsum(abs(effects[i]) for i in kept)
    assert held >= share * total * (1 - 1e-9)
    if kept:
        weakest = min(abs(effects[i]) for i in kept)
        assert held - weakest < share * total
        assert all(abs(x) <= weakest for i, x in enumerate(effects) if i not in kept)
    else:
        assert total == 0


@settings(max_examples=80, deadline=None)
@given(circuit=circuits(), count=st.integers(1, 8), edge_count=st.integers(1, 8))
def test_what_is_pruned_has_a_path_to_the_metric(circuit: Circuit, count: int, edge_count: int) -> None:
    pruned = prune(circuit, nodes=Top(count), edges=Top(edge_count))
    sizes = [abs(score.effect) for score in circuit.nodes.values()]
    strongest = {list(circuit.nodes)[i] for i in choose(sizes, Top(count))}
    inside = [edge for edge in circuit.edges if all(isinstance(end, str) or end in strongest for end in edge)]
    chosen = [inside[i] for i in choose([circuit.edges[edge] for edge in inside], Top(edge_count))]
    if chosen:
        graph = nx.DiGraph(chosen)
        ancestors = nx.ancestors(graph, METRIC) if METRIC in graph else set()
        assert set(pruned.nodes) == {node for node in strongest if node in ancestors}
        assert set(pruned.edges) == {
            edge for edge in chosen if edge[0] in ancestors and edge[1] in ancestors | {METRIC}
        }
    else:
        assert set(pruned.nodes) == strongest
    assert all(
        pruned.nodes[node] == circuit.nodes[node]
        for node in pruned.nodes
        if circuit.nodes[node][1] == circuit.nodes[node][1]
    )
    again = prune(pruned, nodes=Top(count), edges=Top(edge_count))
    assert (set(again.nodes), again.edges) == (set(pruned.nodes), pruned.edges)


def test_a_node_without_a_path_takes_its_edges_along() -> None:
    a, b, c = (Node.parse(name) for name in ("mlp_0/1", "mlp_1/1", "mlp_2/1"))
    scores = dict.fromkeys((a, b, c), NodeScore(1.0))
    edges: dict[tuple[Endpoint, Endpoint], float] = {(a, b): 1.0, (c, METRIC): 1.0}
    kept = reachable(Circuit(scores, edges, (None,), "sum"))
    assert (set(kept.nodes), set(kept.edges)) == ({c}, {(c, METRIC)})


NONSENSE = """top=0 top=1.5 top=-3 top=nan top=inf top=abc top cumulative=0 cumulative=1.2 cumulative=nan
threshold=-1 threshold=nan nonsense=3 top=1_0 top=+5 top=٣ top=1e3 top=010 top=1000000001 threshold=inf threshold=1e999
threshold=٠.٥ threshold=1_0 cumulative=0x1 cumulative=1e-400 top=5:of=3 influence=0
influence=2 influence=.5:of=0 influence=.5:to=3 influence=.5:of=3:of=4
influence=.5:first_position=maybe =5 threshold= top=5=6"""


@pytest.mark.parametrize("text", [*NONSENSE.split(), "", "top=" + "9" * 400, "threshold=" + "9" * 400, "x" * 5000])
def test_rules_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(fc.InputError, match="top|cumulative|threshold|influence|unknown pruning rule") as caught:
        parse_pruning(text)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("rule", "part"), [(100, "'top=100'"), (0.1, "found 0.1"), (None, "found None"), (True, "True")]
)
def test_a_rule_that_is_no_text_is_refused_with_what_to_give(rule: Any, part: str) -> None:
    with pytest.raises(fc.InputError, match=part):
        parse_pruning(rule)


def test_rules_by_name() -> None:
    sizes = [3.0, -2.0, 1.0, 0.0]
    assert choose(sizes, parse_pruning("top=2")) == [0, 1]
    assert choose(sizes, parse_pruning("threshold=1")) == [0, 1]
    assert choose(sizes, parse_pruning("cumulative=0.8")) == [0, 1]
    assert choose(sizes, parse_pruning("influence=0.8:of=3")) == [0, 1, 2]  # among which influence is then found
    for text in ("influence=0.8", "influence=0.8:of=3", "influence=0.8:of=3:first_position=false"):
        assert str(parse_pruning(text)) == text


def test_labels_follow_the_nodes_that_stay() -> None:
    one, other = Node.parse("mlp_0/1@0"), Node.parse("mlp_1/2@0")
    labels = {one: "weak", other: "strong", METRIC: "is - are"}
    circuit = Circuit(
        {one: NodeScore(0.1), other: NodeScore(-2.0)}, {(one, METRIC): 0.1, (other, METRIC): -2.0}, (0,), "none",
        labels=labels,
    )  # fmt: skip
    kept = strongest(circuit, 1)
    assert list(kept.nodes) == [other]
    assert list(kept.edges) == [(other, METRIC)]
    assert dict(kept.labels) == {other: "strong", METRIC: "is - are"}
    assert strongest(circuit, 2) == circuit
    assert list(beginning(circuit, Top(1)).labels) == [one, METRIC]
