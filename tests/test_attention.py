"""Edges split over heads and keys: the parts add up, to what the edge is and to what is written out by hand."""

from __future__ import annotations

import pytest

import featcircuits as fc
from featcircuits.attention.splits import attention_splits
from featcircuits.effects.edges import EdgeEffects
from tests.tiny import FAMILIES, random_task, spliced_model, tiny_model, tolerance

SUITES = {
    "streams": ["resid_0", "attn_1", "resid_1"],
    "heads": ["resid_0", "attn_z_1", "attn_1", "resid_1"],
    "transcoders": ["embed", "mlp_0", "mlp_1", "mlp_2"],
}


def _chosen(edges: EdgeEffects, count: int = 6) -> dict:
    """The strongest edges of each connection."""
    by_arc: dict = {}
    for edge in sorted(edges.edges(), key=lambda edge: -abs(edge.mean)):
        down = edge.downstream if isinstance(edge.downstream, str) else edge.downstream.site
        by_arc.setdefault((edge.upstream.site, down), []).append(edge)
    return {edge[:2]: edge.mean for own in by_arc.values() for edge in own[:count]}


CASES = [(family, list(SUITES)[number % len(SUITES)]) for number, family in enumerate(FAMILIES)]
"""Every family and every suite; in gpt2, which computes in float64, all suites."""


@pytest.mark.parametrize(("family", "suite"), [*CASES, *(("gpt2", suite) for suite in SUITES)])
def test_parts_add_up_to_the_edge(family: str, suite: str) -> None:
    spliced = spliced_model(tiny_model(family), "transcoder", SUITES[suite])
    task = random_task(2, 5)
    rules = "relp:rules=with_ah" if suite != "heads" else "relp:rules=ah"
    effects = fc.node_effects(spliced, task, rules)
    expected = _chosen(fc.edge_effects(spliced, task, effects, node_threshold=0.0), 2)
    found = attention_splits(spliced, task, expected, rules)
    largest = max(map(abs, expected.values()))
    assert any(split.heads for split in found)
    for split in found:
        bound = tolerance(family) * largest
        assert split.edge == pytest.approx(expected[split.upstream, split.downstream], abs=bound)
        parts = sum(part.value for part in split.heads) + split.past_attention
        assert parts == pytest.approx(split.edge, abs=bound)


def test_a_head_that_is_held_to_one_key_passes_on_from_there_alone() -> None:
    """Between neighbouring residual sites the key is the upstream node's own position."""
    spliced = spliced_model(tiny_model("gpt2"), "transcoder", ["resid_0", "resid_1"])
    task = random_task(2, 5)
    effects = fc.node_effects(spliced, task, "atp")
    chosen = _chosen(fc.edge_effects(spliced, task, effects, node_threshold=0.0), 20)
    split = [one for one in attention_splits(spliced, task, chosen, "atp") if one.heads]
    assert split
    assert {part.key == one.upstream.place for one in split for part in one.heads} == {True}
    assert any(abs(one.through_scores) > 1e-6 * abs(one.edge) for one in split)  # AtP also moves patterns


@pytest.mark.parametrize(
    ("edges", "estimator", "message"),
    [
        ([("resid_0/1@2", "resid_1/1@2")], "exact", "no single run whose edges could be split"),
        (["resid_0/1@2"], "atp", "is not an edge; give a pair"),
        ([("resid_1/1@2", "resid_0/1@2")], "atp", "not directly connected"),
    ],
)
def test_what_cannot_be_split_is_refused(edges: list, estimator: str, message: str) -> None:
    spliced = spliced_model(tiny_model("gpt2"), "transcoder", ["resid_0", "resid_1"])
    with pytest.raises(fc.InputError, match=message):
        attention_splits(spliced, random_task(2, 5), edges, estimator)
