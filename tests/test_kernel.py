"""The kernel of circuits as graphs, edge slots and rewired circuits: their identities on any circuit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.comparison.kernel import LABELS
from featcircuits.comparison.rewired import rewired
from featcircuits.model.nodes import METRIC, Node
from tests.test_circuit import circuits

quick = settings(max_examples=10, deadline=None)


def layered(seed: int, width: int = 6) -> Circuit:
    """Random edges between the nodes of three sites, and to the metric."""
    generator = np.random.default_rng(seed)
    rows = [[Node.parse(f"resid_{layer}/{feature}") for feature in range(width)] for layer in range(3)]
    pairs = [(a, b) for one, other in zip(rows, rows[1:], strict=False) for a in one for b in other]
    pairs = [pair for pair in pairs if generator.random() < 0.4] + [(node, METRIC) for node in rows[-1]]
    nodes = {node: NodeScore(1.0) for row in rows for node in row}
    return Circuit(nodes, {pair: float(generator.normal()) for pair in pairs}, (None,), "sum")


@quick
@given(some=st.lists(circuits(), min_size=2, max_size=3), labels=st.sampled_from(sorted(LABELS)))
def test_kernels_are_positive_semi_definite_and_1_on_the_diagonal(some: list[Circuit], labels: str) -> None:
    assume(all(one.nodes for one in some))
    values = fc.wl_kernel({str(at): one for at, one in enumerate(some)}, labels=labels).values
    np.testing.assert_allclose(np.diag(values), 1)
    np.testing.assert_array_equal(values, values.T)
    assert np.linalg.eigvalsh(values).min() > -1e-9
    assert 0 <= values.min() <= values.max() <= 1 + 1e-12


@quick
@given(one=circuits(), seed=st.integers(0, 99))
def test_order_and_scale_change_nothing(one: Circuit, seed: int) -> None:
    assume(one.nodes)
    generator = np.random.default_rng(seed)
    nodes, edges = [*one.nodes.items()], [*one.edges.items()]
    mixed = [nodes[at] for at in generator.permutation(len(nodes))]
    turned = [edges[at] for at in generator.permutation(len(edges))]
    other = replace(one, nodes=dict(mixed), edges={pair: 4 * weight for pair, weight in turned})
    assert fc.wl_kernel({"a": one, "b": other}).values == pytest.approx(np.ones((2, 2)))


def test_other_numbers_of_features_change_nothing_for_sites_and_everything_for_nodes() -> None:
    one = layered(0)
    new = {node: node._replace(feature=100 + node.feature * 7) for node in one.nodes if node.feature is not None}
    nodes = {new[node]: score for node, score in one.nodes.items()}
    edges = {(new.get(a, a), new.get(b, b)): weight for (a, b), weight in one.edges.items()}  # type: ignore[call-overload]
    pair = {"a": one, "b": Circuit(nodes, edges, (None,), "sum")}
    assert fc.wl_kernel(pair, labels="site").values[0, 1] == pytest.approx(1)
    assert fc.wl_kernel(pair, depth=0).values[0, 1] == pytest.approx(1 / 19), "the metric alone is the same"


def test_signs_and_sizes_of_edges_count_from_the_first_round_on() -> None:
    one = layered(0)
    turned = replace(one, edges={pair: -weight for pair, weight in one.edges.items()})
    assert fc.wl_kernel({"a": one, "b": turned}, depth=0).values[0, 1] == pytest.approx(1)
    assert fc.wl_kernel({"a": one, "b": turned}, depth=1).values[0, 1] < 0.7


@quick
@given(one=circuits(), seed=st.integers(0, 99))
def test_rewired_circuits_have_the_same_nodes_weights_and_degrees(one: Circuit, seed: int) -> None:
    other = rewired(one, seed)
    assert other.nodes == one.nodes
    assert sorted(other.edges.values()) == sorted(one.edges.values())
    for side in (0, 1):
        own, found = (
            Counter((pair[side], getattr(pair[1 - side], "site", METRIC)) for pair in c.edges) for c in (one, other)
        )
        assert own == found


def test_wiring_is_told_from_nodes_by_rewired_circuits() -> None:
    one, other = layered(0), layered(1)
    assert rewired(one).edges.keys() != one.edges.keys()
    found = fc.wl_kernel({"a": one, "same": one, "b": other}, draws=19)
    assert found.p[0, 1] == pytest.approx(1 / 20), "no rewired circuit is as like as the same one"
    assert found.random[0, 1] < found.values[0, 1]
    assert found.p[0, 2] > 0.1, "circuits with the same nodes and other edges are no more alike than by chance"
