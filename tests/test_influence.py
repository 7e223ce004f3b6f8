"""Influence on sparse graphs; the attribution graphs of another program, by its own rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

import featcircuits as fc
from featcircuits.circuit.influence import Edge, influence, pruned_by_influence
from featcircuits.circuit.pruning import parse_pruning, prune
from featcircuits.model.nodes import METRIC, Endpoint, Node
from featcircuits.model.sites import Site
from tests.test_golden import Golden, golden

GRAPHS = ("attribution_graph_llama", "attribution_graph_gemma2")


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), share=st.floats(0.1, 1))
@settings(deadline=None)
def test_influence_is_the_dense_inverse(seed: int, count: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    ends: list[Endpoint] = [Node(Site(number, "mlp"), 0) for number in range(count)] + [METRIC]
    A = np.tril(generator.normal(size=(count + 1, count + 1)), -1) * (generator.random((count + 1, count + 1)) < share)
    A[-1, 0] = 1.0
    edges = {(ends[s], ends[t]): A[t, s] for t in range(count + 1) for s in range(t) if A[t, s]}
    into = np.abs(A).sum(1, keepdims=True)
    S = np.divide(np.abs(A), into, out=np.zeros_like(A), where=into > 0)
    w = np.eye(count + 1)[-1]
    expected = w @ np.linalg.inv(np.eye(count + 1) - S) - w
    found = influence(edges)
    for end, value in found.nodes.items():
        assert value == pytest.approx(expected[ends.index(end)], abs=1e-12)
    # what reaches the metric along edges is all of it
    assert sum(value for (_, target), value in found.edges.items() if target == METRIC) == pytest.approx(1.0)


def test_circles_and_unknown_targets_are_refused() -> None:
    a, b = Node(Site(0, "mlp"), 0), Node(Site(1, "mlp"), 1)
    with pytest.raises(fc.InputError, match="in a circle: 'mlp"):
        influence({(a, b): 1.0, (b, a): 1.0, (b, METRIC): 1.0})
    with pytest.raises(fc.InputError, match="no edge leads to metric"):
        influence({(a, b): 1.0})
    with pytest.raises(fc.InputError, match="is nan; give finite"):
        influence({(a, METRIC): 1.0}, {METRIC: float("nan")})
    with pytest.raises(fc.InputError, match="nodes is 0"):
        pruned_by_influence({(a, METRIC): 1.0}, nodes=0)


def test_a_target_may_lose_all_its_sources() -> None:
    a, b = Node(Site(0, "mlp"), 0), Node(Site(1, "mlp"), 1)
    weights: dict[Endpoint, float] = {"logit 0": 0.9, "logit 1": 0.1}
    nodes, edges = pruned_by_influence({(a, "logit 0"): 1.0, (b, "logit 1"): 1.0}, nodes=0.8, weights=weights)
    assert {"logit 0", "logit 1"} <= nodes
    assert b not in nodes
    assert edges == {(a, "logit 0")}  # a feature that never had a source needs none
    c = Node(Site(2, "mlp"), 2)
    sparse: dict[Edge, float] = {(a, c): 1.0, (b, c): 0.1, (c, METRIC): 1.0, (a, METRIC): 20.0}
    assert pruned_by_influence(sparse, nodes=0.95, edges=0.95) == ({a, METRIC}, {(a, METRIC)})  # c lost all of its own


def test_the_demo_circuit_has_influence_and_scores() -> None:
    model = fc.load()
    task = fc.Task.from_jsonl("saes/grammar-4l/tasks/agreement_simple_train.jsonl", model.tokenizer).take(4)
    circuit = fc.trace(model, task, keep_nodes="top=40").circuit
    found = influence(circuit)
    assert set(found.nodes) <= {*circuit.nodes, METRIC}
    assert 0 <= found.replacement <= 1
    assert 0 < found.completeness <= 1
    nodes, edges = pruned_by_influence(circuit, nodes=0.8, edges=0.9)
    assert METRIC in nodes
    assert 0 < len(edges) < len(circuit.edges)
    assert edges <= circuit.edges.keys()
    json.dumps(found.to_json(), allow_nan=False)


def test_a_trace_keeps_nodes_and_edges_by_influence() -> None:
    model = fc.load()
    task = fc.Task.from_jsonl("saes/grammar-4l/tasks/agreement_simple_train.jsonl", model.tokenizer).take(4)
    whole = fc.trace(model, task, keep_nodes="top=80", keep_edges="top=1000000").circuit
    found = fc.trace(model, task, keep_nodes="influence=0.7:of=80", keep_edges="influence=0.9")
    nodes, edges = pruned_by_influence(whole, nodes=0.7, edges=0.9)
    kept = found.circuit
    assert {edge for edge in kept.edges if isinstance(edge[0], Node)} == edges
    assert {*kept.nodes, METRIC} == {end for edge in edges for end in edge} <= nodes
    assert found.counts.nodes_chosen < 80
    scores = influence(whole).scores
    assert {name: kept.manifest["graph"][name] for name in scores} == scores
    assert kept.manifest["settings"]["keep_nodes"] == "influence=0.7:of=80"
    shown = kept.to_networkx().nodes
    assert {name: data["influence"] for name, data in shown.items() if "influence" in data} == {
        str(node): value for node, value in influence(kept).nodes.items() if node != METRIC
    }
    with pytest.raises(fc.InputError, match="needs edges"):
        fc.trace(model, task, keep_nodes="influence=0.7", edges=None)
    with pytest.raises(fc.InputError, match="pruned by influence"):
        fc.stability(model, kept, task, resamples=2)
    report = fc.evaluate(model, kept, task, sizes=())
    assert (report.replacement, report.graph_completeness) == (*influence(kept).scores.values(),)
    assert prune(whole, nodes=parse_pruning("influence=0.7"), edges=parse_pruning("influence=0.9")) == replace(
        kept, manifest=whole.manifest
    )


def test_a_graph_without_tokens_has_no_replacement_score_and_keeps_its_first_features() -> None:
    a, b = Node(Site(0, "resid"), 0), Node(Site(1, "resid"), None)
    found = influence({(a, METRIC): 1.0, (b, METRIC): 1.0})
    assert found.scores == {"replacement": None, "completeness": 0.75}
    assert pruned_by_influence({(a, METRIC): 1.0, (b, METRIC): 1e-9})[0] == {a, METRIC}


class _Case(NamedTuple):
    file: Golden
    spliced: Any
    ids: Tensor


def _case(name: str, dtype: torch.dtype) -> _Case:
    file = golden(name)
    model, dictionaries = file.model(), {}
    for site in file.sites("transcoder/"):
        weights = {key: value.to(torch.float64) for key, value in file.at(f"transcoder/{site}/").items()}
        if "gemma" in name:  # the transcoder reads before the norm's gain
            norm = model.model.layers[Site.parse(site).layer].pre_feedforward_layernorm
            weights["W_enc"] = weights["W_enc"] / (1 + norm.weight.detach().double())[:, None]
        dictionaries[site] = fc.dictionaries.jumprelu(**weights, transcodes=True)
    width = model.config.hidden_size
    dictionaries["embed"] = fc.dictionaries.whole(width)
    return _Case(file, fc.load(model.to(dtype), dictionaries), file.tensors["input/ids"])


class _Lifted(TorchFunctionMode):
    """transformers computes norms, rotary angles and softmax in float32; here in float64 too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.linspace:  # of the checksums of weights
            return func(*args, **kwargs, dtype=torch.float64)
        args, kwargs = ([torch.float64 if one is torch.float32 else one for one in args], dict(kwargs or {}))
        return func(*args, **{name: torch.float64 if one is torch.float32 else one for name, one in kwargs.items()})


def _edges(case: _Case) -> Iterator[tuple[int, dict[Edge, float], dict[Endpoint, float]]]:
    """For each logit: its number, the edges of its own task, and its nodes' effects."""
    for number, logit in enumerate(case.file.tensors["logit/id"].tolist()):
        task = fc.Task.from_tokens(case.ids[None], None, [[logit]], metric="demeaned_logit", keep_wrong=True)
        effects = fc.node_effects(case.spliced, task, "relp:rules=with_ah", baseline="zero")
        found = fc.edge_effects(case.spliced, task, effects, node_threshold=0.0)
        edges = {(edge.upstream, edge.downstream): edge.mean for edge in found.edges()}
        yield number, edges, {node: mean for node, mean, _ in effects.nodes()}


def _graph(case: _Case) -> tuple[dict[Edge, float], dict[Endpoint, float]]:
    """Edges in circuit-tracer's units, with each logit as a target, and the logits' probabilities."""
    active = _activations(case)
    graph: dict[Edge, float] = {}
    for number, edges, effects in _edges(case):
        for (source, target), value in edges.items():
            if target == METRIC:
                graph[source, f"logit {number}"] = value
            elif number == 0 and target in active and effects[target]:
                graph[source, target] = value * active[target] / effects[target]
            elif number == 0:
                graph[source, target] = value
    weights = case.file.tensors["logit/probability"].tolist()
    return graph, {f"logit {number}": weight for number, weight in enumerate(weights)}


def _activations(case: _Case) -> dict[Endpoint, float]:
    names = ("kind", "layer", "position", "feature", "activation")
    rows = zip(*(case.file.tensors[f"node/{name}"].tolist() for name in names), strict=True)
    return {
        Node(Site(layer, "mlp"), feature, position): value
        for kind, layer, position, feature, value in rows
        if kind == 0
    }


def _ends(case: _Case) -> list[Endpoint]:
    """circuit-tracer's nodes, by our names."""
    names = ("kind", "layer", "position", "feature")
    ends: list[Endpoint] = []
    for kind, layer, position, feature in zip(*(case.file.tensors[f"node/{n}"].tolist() for n in names), strict=True):
        if kind == 3:
            ends.append(f"logit {sum(str(end).startswith('logit') for end in ends)}")
        else:
            site = Site(layer, "mlp") if kind < 2 else Site.parse("embed")
            ends.append(Node(site, feature if kind == 0 else None, position))
    return ends


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", GRAPHS)
def test_attribution_graphs_are_those_of_circuit_tracer(name: str, dtype: torch.dtype, tolerance: float) -> None:
    case = _case(name, dtype)
    with _Lifted() if dtype == torch.float64 else nullcontext():
        graph, weights = _graph(case)
    ends, expect = _ends(case), case.file.at("expect/")
    index, value = expect["adjacency/index"].tolist(), expect["adjacency/value"].tolist()
    theirs = {(ends[s], ends[t]): v for t, s, v in zip(*index, value, strict=True)}
    on = dict(zip(ends, expect["influence"].tolist(), strict=True))
    compared = {edge: v for edge, v in theirs.items() if on[edge[1]] > 0 or edge[1] in weights}
    largest = max(map(abs, compared.values()))
    assert len(compared) > 5000
    for edge, v in compared.items():
        assert abs(graph.get(edge, 0.0) - v) <= tolerance * largest, edge

    found = influence(graph, weights, first_position=False)
    most = max(on.values())
    for end, v in on.items():
        assert abs(found.nodes.get(end, 0.0) - v) <= tolerance * most, end
    scores = expect["scores"].tolist()
    assert [found.replacement, found.completeness] == pytest.approx(scores, abs=10 * tolerance)

    prune = json.loads(case.file.metadata["prune"])
    shares = [float(one) for one in (prune.values() if isinstance(prune, dict) else prune)]
    nodes, edges = pruned_by_influence(graph, nodes=shares[0], edges=shares[1], weights=weights, first_position=False)
    kept = {end for end, keep in zip(ends, expect["pruned/nodes"].tolist(), strict=True) if keep}
    assert {*nodes} == kept
    assert edges == {(ends[s], ends[t]) for t, s in zip(*expect["pruned/edges"].tolist(), strict=True)}
