"""Edges split over heads and keys: the parts add up, to what the edge is and to what is written out by hand."""

from __future__ import annotations

import pytest
import torch

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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suite", SUITES)
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
