"""Stability: what resampled prompts choose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcircuits as fc
from featcircuits.cli.tables import stability_line
from featcircuits.progress import silent
from featcircuits.runs.ledger import InMemory
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tracing import resampled as resampled_module
from featcircuits.tracing.resampled import resampled
from featcircuits.tracing.stability import Overlap, _plan_of
from tests.tiny import random_task, spliced_model, tiny_model

SITES = ["embed", "mlp_0", "resid_1", "resid_2"]


def _traced(**options: Any) -> tuple[SplicedModel, fc.Task, fc.Circuit]:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=SITES), random_task(8)
    given: dict[str, Any] = {"nodes": "atp", "keep_nodes": "top=20", "keep_edges": "top=30", **options}
    if given.get("edges", "same") is None:
        del given["keep_edges"]
    return spliced, task, fc.trace(spliced, task, check_fit=False, **given).circuit


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_nodes": "cumulative=0.7", "keep_edges": "threshold=0.002"},
        {"nodes": "relp", "edges": "atp", "select": "helpful", "start_layer": 1, "keep_nodes": "top=60"},
        {"baseline": "noise", "seed": 7},
        {"baseline": "zero", "edges": None},
    ],
)
def test_equal_weights_give_back_the_circuit(options: dict[str, Any]) -> None:
    spliced, task, circuit = _traced(**options)
    found = resampled(spliced, task, _plan_of(circuit).for_task(task), np.ones((1, 8)), InMemory(), silent)
    (choice,) = found.choices
    assert {found.nodes[number] for number in choice.nodes} == {*circuit.nodes}
    edges = choice.edges if choice.edges is not None else np.zeros(0, dtype=int)
    assert {found.edges[number] for number in edges} == {*circuit.edges}
    assert (choice.edges is None) == (options.get("edges", "same") is None)


def test_weights_choose_what_the_resampled_task_chooses() -> None:
    spliced, task, circuit = _traced()
    drawn = [0, 0, 3, 5, 5, 5, 6, 7]
    weights = np.bincount(drawn, minlength=8).astype(float)
    found = resampled(spliced, task, _plan_of(circuit).for_task(task), weights[None], InMemory(), silent)
    again = fc.Task(tuple(task.examples[n] for n in drawn), keep_wrong=True)
    expected = fc.trace(spliced, again, nodes="atp", keep_nodes="top=20", keep_edges="top=30", check_fit=False).circuit
    (choice,) = found.choices
    assert {found.nodes[number] for number in choice.nodes} == {*expected.nodes}
    assert choice.edges is not None
    assert {found.edges[number] for number in choice.edges} == {*expected.edges}


def test_shares_are_repeatable_and_whole_circuits_are_stable() -> None:
    spliced, task, circuit = _traced()
    one, two = (fc.stability(spliced, circuit, task, resamples=40, halves=4) for _ in range(2))
    assert one == two
    assert ({*one.nodes}, {*one.edges}) == ({*circuit.nodes}, {*circuit.edges})
    assert 0 < min(one.nodes.values()) <= max(one.nodes.values()) <= 1
    assert max(one.nodes.values()) > 0.8  # some resamples have no path to the metric
    assert one.halves.edges is not None
    assert 0 < one.halves.nodes < 1
    assert one.cases == {}
    # nodes that have the same effect in all examples are chosen by every resample
    same = fc.Task(task.examples[:1] * 4, keep_wrong=True)
    circuit = fc.trace(spliced, same, nodes="atp", keep_nodes="top=20", edges=None, check_fit=False).circuit
    found = fc.stability(spliced, circuit, same, resamples=10, halves=3)
    assert {*found.nodes.values()} == {1.0}
    assert (found.halves, found.edges) == (Overlap(1.0, None), {})


def test_halves_that_choose_nothing_do_not_count() -> None:
    spliced, task, circuit = _traced()
    highest = max(abs(score.effect) for score in circuit.nodes.values())
    circuit = fc.trace(
        spliced, task, nodes="atp", keep_nodes=f"threshold={0.99 * highest:.6f}", edges=None, check_fit=False
    ).circuit
    found = fc.stability(spliced, circuit, task, resamples=5, halves=8)
    assert 0 <= found.halves.nodes <= 1 or found.to_json()["halves"]["nodes"] is None
    none = Overlap(float("nan"), None)
    assert none.to_json() == {"nodes": None, "edges": None}


def test_templates_are_compared_with_the_others() -> None:
    spliced, task, _ = _traced()
    cases = ("a", "a", "a", "a", "b", "b", "b", "b")
    named = replace(task, examples=tuple(replace(e, case=c) for e, c in zip(task.examples, cases, strict=True)))
    circuit = fc.trace(spliced, named, nodes="atp", keep_nodes="top=20", keep_edges="top=30", check_fit=False).circuit
    found = fc.stability(spliced, circuit, named, resamples=5, halves=2)
    kept = [
        fc.trace(spliced, named.only(part), nodes="atp", keep_nodes="top=20", keep_edges="top=30", check_fit=False)
        for part in (range(4), range(4, 8))
    ]
    one, other = ({*trace.circuit.nodes} for trace in kept)
    assert found.cases["a"] == found.cases["b"]
    assert found.cases["a"].nodes == pytest.approx(len(one & other) / len(one | other))
    assert "the prompts of each of 2 templates and all others agree on" in stability_line(found)


def test_finished_examples_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spliced, task, circuit = _traced()
    ledger = InMemory()
    first = fc.stability(spliced, circuit, task, resamples=5, halves=2, ledger=ledger)
    monkeypatch.setattr(type(spliced), "run", None)
    assert fc.stability(spliced, circuit, task, resamples=5, halves=2, ledger=ledger, check=False) == first


def test_an_example_keeps_its_strongest_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    spliced, task, circuit = _traced()
    whole = fc.stability(spliced, circuit, task, resamples=20, halves=2)
    monkeypatch.setattr(resampled_module, "MOST", 2000)
    ledger = InMemory()
    assert fc.stability(spliced, circuit, task, resamples=20, halves=2, ledger=ledger) == whole
    monkeypatch.setattr(resampled_module, "MOST", 10)
    fc.stability(spliced, circuit, task, resamples=1, halves=1, ledger=(few := InMemory()))
    for part in few.parts("stability-nodes", len(task)).values():
        assert sum(len(value) for name, value in part.items() if name.endswith("/keys")) == 10


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
