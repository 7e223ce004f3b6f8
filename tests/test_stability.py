"""Stability: what resampled prompts choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcircuits as fc
from featcircuits.circuit.pruning import parse_pruning
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.validation import stability as module
from tests.tiny import random_task, spliced_model, tiny_model

SITES = ["embed", "mlp_0", "resid_1", "resid_2"]


def _traced(**options: str) -> tuple[SplicedModel, fc.Task, fc.Circuit]:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=SITES), random_task(8)
    given: dict[str, Any] = {"nodes": "atp", "keep_nodes": "top=20", "keep_edges": "top=30", **options}
    return spliced, task, fc.trace(spliced, task, check_fit=False, **given).circuit


def test_weights_choose_what_the_resampled_task_chooses() -> None:
    spliced, task, circuit = _traced()
    table = module._node_table(spliced, task, module._settings(circuit), True, module.silent)
    choose = module._choosing(table, module.ORDERS["effect"], parse_pruning("top=20"))
    drawn = [0, 0, 3, 5, 5, 5, 6, 7]
    resampled = fc.Task(tuple(task.examples[n] for n in drawn), keep_wrong=True)
    effects = fc.node_effects(spliced, resampled, "atp")
    order = fc.select(spliced, resampled, effects)
    assert choose(np.bincount(drawn, minlength=8).astype(float)) == {*order[:20]}


def test_edges_of_one_example_are_that_examples() -> None:
    spliced, task, circuit = _traced()
    table = module._edge_table(spliced, task, circuit, module._settings(circuit), module.silent)
    alone = fc.edge_effects(spliced, task.only([2]), circuit.nodes, "atp")
    expected = {(edge.upstream, edge.downstream): edge.mean for edge in alone.edges() if edge.mean}
    row = table.values[2].toarray()[0]
    found = {name: value for name, value in zip(table.names, row, strict=True) if value}
    assert found.keys() == expected.keys()
    for edge, value in expected.items():
        assert found[edge] == pytest.approx(value, rel=1e-9)


def test_shares_are_repeatable_and_whole_circuits_are_stable() -> None:
    spliced, task, circuit = _traced()
    one, two = (fc.stability(spliced, circuit, task, resamples=40, halves=4) for _ in range(2))
    assert one == two
    assert {*one.nodes} == {*circuit.nodes}
    assert {*one.edges} == {edge for edge in circuit.edges if isinstance(edge[0], fc.Node)}
    assert 0 < min(one.nodes.values()) <= max(one.nodes.values()) <= 1
    assert max(one.nodes.values()) > 0.9
    assert one.edge_overlap is not None
    assert 0 < one.node_overlap < 1
    # nodes that have the same effect in all examples are chosen by every resample
    same = fc.Task(task.examples[:1] * 4, keep_wrong=True)
    circuit = fc.trace(spliced, same, nodes="atp", keep_nodes="top=20", edges=None, check_fit=False).circuit
    found = fc.stability(spliced, circuit, same, resamples=10, halves=3)
    assert {*found.nodes.values()} == {1.0}
    assert (found.node_overlap, found.edge_overlap) == (1.0, None)


def test_files_graphs_and_exports_carry_it(tmp_path: Path) -> None:
    spliced, task, circuit = _traced()
    found = fc.stability(spliced, circuit, task, resamples=10, halves=2)
    path = tmp_path / "circuit.safetensors"
    found.on(circuit).save(path)
    graph = fc.Circuit.load(path).to_networkx()
    for node, share in found.nodes.items():
        assert graph.nodes[str(node)]["stability"] == share
    for (source, target), share in found.edges.items():
        assert graph.edges[str(source), str(target)]["stability"] == share
    fc.export.gexf(fc.Circuit.load(path), tmp_path / "circuit.gexf")
    assert 'title="stability"' in (tmp_path / "circuit.gexf").read_text()
    damaged = fc.Circuit(
        circuit.nodes, {}, circuit.places, circuit.aggregate, {"stability": {"nodes": 3, "edges": [1]}}
    )
    assert "stability" not in json.dumps(dict(damaged.to_networkx().nodes(data=True)))


def test_what_cannot_be_resampled_is_refused() -> None:
    spliced, task, circuit = _traced(select="ratio")
    with pytest.raises(fc.InputError, match="'ratio.*stability is known for effect, helpful"):
        fc.stability(spliced, circuit, task)
    bare = fc.Circuit(circuit.nodes, {}, circuit.places, circuit.aggregate)
    with pytest.raises(fc.InputError, match="does not say how it was traced"):
        fc.stability(spliced, bare, task)
    with pytest.raises(fc.InputError, match="3 examples are too few"):
        fc.stability(spliced, _traced()[2], task.take(3))
    with pytest.raises(fc.InputError, match="resamples is 0"):
        fc.stability(spliced, _traced()[2], task, resamples=0)
