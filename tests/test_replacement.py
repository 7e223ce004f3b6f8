"""The local replacement model: gradients through transcoders' features, so that effects are totals along edges."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

import featcircuits as fc
from featcircuits.model.nodes import Endpoint, Node
from featcircuits.propagation import propagation
from tests.test_influence import GRAPHS, _case, _ends, _Lifted
from tests.tiny import FAMILIES, LAYERS, random_task, spliced_model, tiny_model

TRANSCODERS = ["embed", *(f"mlp_{layer}" for layer in range(LAYERS))]


def _effects_and_edges(
    spliced: fc.SplicedModel, task: fc.Task, rules: str
) -> tuple[dict[Node, float], dict[tuple[Endpoint, Endpoint], float]]:
    effects = fc.node_effects(spliced, task, f"relp:rules={rules}", baseline="zero")
    edges = fc.edge_effects(spliced, task, effects, node_threshold=0.0)
    return {node: mean for node, mean, _ in effects.nodes()}, {edge[:2]: edge.mean for edge in edges.edges()}


@pytest.mark.parametrize(
    ("family", "kind", "rules"),
    [
        *((family, "skip_transcoder", "replacement") for family in FAMILIES),
        *((family, kind, "features") for family, kind in (("gpt2", "transcoder"), ("gemma2", "skip_transcoder"))),
    ],
)
def test_effects_are_conserved_through_features_alone(family: str, kind: str, rules: str) -> None:
    spliced, task = spliced_model(tiny_model(family), kind, TRANSCODERS), random_task(2, 5, seed=3)
    effects, edges = _effects_and_edges(spliced, task, rules)
    passed: dict[Endpoint, float] = defaultdict(float)
    for (source, target), value in edges.items():
        assert not (isinstance(target, Node) and target.is_error)
        passed[source] += value
    largest = max(map(abs, effects.values()))
    assert len(effects) > 50
    assert max(abs(passed[node] - effect) for node, effect in effects.items()) < 1e-6 * largest


@pytest.mark.parametrize("name", GRAPHS)
def test_effects_are_the_signed_totals_of_attribution_graphs(name: str) -> None:
    """T[s] = A[logit, s] + sum over t of T[t] A[t, s] / a_t, with circuit-tracer's own edges and activations."""
    case = _case(name, torch.float64)
    logit, vocabulary = int(case.file.tensors["logit/id"][0]), case.spliced.model.config.vocab_size
    others = tuple(id for id in range(vocabulary) if id != logit)
    task = fc.Task.from_tokens(case.ids[None], None, [[logit]], [others], keep_wrong=True)
    with _Lifted():
        effects = fc.node_effects(case.spliced, task, "relp:rules=replacement", baseline="zero")
    ours: dict[Endpoint, float] = {node: mean * (vocabulary - 1) / vocabulary for node, mean, _ in effects.nodes()}

    ends, expect = _ends(case), case.file.at("expect/")
    matrix = torch.zeros(len(ends), len(ends), dtype=torch.float64)
    matrix[tuple(expect["adjacency/index"].long())] = expect["adjacency/value"].double()
    active = case.file.tensors["node/activation"].double()
    rows = torch.where(active[:, None] > 0, matrix / active.clamp_min(1e-30)[:, None], matrix * 0)
    totals = torch.linalg.solve(torch.eye(len(ends)).double() - rows.T, matrix[ends.index("logit 0")])
    # its graphs have no features and errors at position 0, through which what is before it would pass
    later = {end for end in ours if isinstance(end, Node) and end.place != 0}
    compared = [(ours[end], float(total)) for end, total in zip(ends, totals, strict=True) if end in later]
    assert len(compared) > 100
    largest = max(abs(total) for _, total in compared)
    assert max(abs(one - total) for one, total in compared) < 1e-9 * largest


def test_values_do_not_change_and_nothing_stays_on_the_model() -> None:
    spliced, task = spliced_model(tiny_model("llama"), "transcoder", TRANSCODERS), random_task(2, 5)
    tokens = next(iter(task.batches(2))).clean
    before = spliced.run(tokens, answers_only=True)
    fc.node_effects(spliced, task, "relp:rules=replacement", baseline="zero")
    assert torch.equal(before, spliced.run(tokens, answers_only=True))


def test_without_transcoders_the_rule_is_refused() -> None:
    spliced, task = spliced_model(tiny_model("llama"), "relu", ["resid_0"]), random_task(2, 5)
    with pytest.raises(fc.InputError, match="suite has no transcoder"):
        fc.node_effects(spliced, task, "relp:rules=replacement", baseline="zero")
    with pytest.raises(fc.InputError, match="needs the dictionaries of a run"), propagation(spliced.model, "features"):
        pass
