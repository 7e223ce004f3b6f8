"""What edge effects must satisfy, on tiny random models of every family and suites with missing sites."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import featcircuits as fc
from featcircuits.effects.edges import EdgeEffects
from featcircuits.model.connections import Through, connections
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site, all_sites
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import (
    ALL_SITES,
    FAMILIES,
    KINDS,
    put_together,
    random_task,
    seen_at,
    spliced_model,
    taken_apart,
    tiny_model,
    tolerance,
)

families = st.sampled_from(FAMILIES)
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 5)
some_sites = st.lists(st.sampled_from(ALL_SITES), min_size=1, max_size=len(ALL_SITES), unique=True)


def outgoing(effects: EdgeEffects) -> dict[Node, float]:
    """Sum of each node's outgoing edges."""
    total: dict[Node, float] = {}
    for source, _, value in effects.edges():
        total[source] = total.get(source, 0.0) + value
    return total


@given(
    family=families,
    kind=kinds,
    names=some_sites,
    aggregate=st.sampled_from(["none", "sum"]),
    seed=seeds,
    estimator=st.sampled_from(["atp", "ig-conductance:steps=2"]),
)
@settings(max_examples=40, deadline=None)
def test_outgoing_edges_add_up_to_the_nodes_effect(
    family: str, kind: str, names: list[str], aggregate: str, seed: int, estimator: str
) -> None:
    """AtP and conductance, all downstream nodes kept.

    Where a site is missing, its paths belong to the neighbouring edge.
    So do paths past the features of a skip transcoder.
    """
    spliced = spliced_model(tiny_model(family, seed), kind, names)
    task = random_task(2, 4, seed, aggregate=aggregate)
    nodes = fc.node_effects(spliced, task, estimator=estimator)
    total = outgoing(fc.edge_effects(spliced, task, nodes, estimator=estimator, node_threshold=0.0))
    scale = max(abs(mean) for _, mean, _ in nodes.nodes())
    for node, mean, _ in nodes.nodes():
        assert total.get(node, 0.0) == pytest.approx(mean, abs=tolerance(family) * scale)


@given(family=families, kind=kinds, names=some_sites, seed=seeds)
@settings(max_examples=25, deadline=None)
def test_edges_are_one_backward_pass_a_node_with_every_other_site_held_still(
    family: str, kind: str, names: list[str], seed: int
) -> None:
    """The slow oracle: torch differentiates through the dictionary of the downstream node itself."""
    spliced, task = spliced_model(tiny_model(family, seed), kind, names), random_task(1, 4, seed)
    nodes = fc.node_effects(spliced, task, estimator="ig:steps=2")
    chosen = [node for node, _, _ in sorted(nodes.nodes(), key=lambda item: -abs(item[1]))[:12]]
    found = {(s, t): v for s, t, v in fc.edge_effects(spliced, task, chosen, effects=nodes).edges()}
    coefficients = ig_coefficients(spliced, task, steps=2)
    for source, target in itertools.permutations(chosen, 2):
        expected = edge_oracle(spliced, task, coefficients, source, target)
        assert found.get((source, target), 0.0) == pytest.approx(expected, rel=1e-4, abs=2e-6)


def ig_coefficients(spliced: SplicedModel, task: fc.Task, steps: int) -> dict[Site, Tensor]:
    """Mean gradient on the left points of the straight path, site by site."""
    batch = task.batch([0])
    assert batch.corrupted is not None
    found = {}
    for site, dictionary in spliced.dictionaries.items():
        (x1, read), (x2, read2) = seen_at(spliced, batch.clean, site), seen_at(spliced, batch.corrupted, site)
        features, error = taken_apart(dictionary, x2, read2, units=read)
        change = put_together(dictionary, features, error, read) - x1
        total = torch.zeros_like(x1)
        for step in range(steps):
            x = (x1 + step / steps * change).requires_grad_()
            logits = spliced.run(batch.clean, lambda s, _, x=x: x, sites=[site], answers_only=True)
            total += torch.autograd.grad(-task.F(logits, batch.answers).sum(), x)[0]
        found[site] = total / steps
    return found


def edge_oracle(
    spliced: SplicedModel, task: fc.Task, coefficients: dict[Site, Tensor], source: Node, target: Node
) -> float:
    batch = task.batch([0])
    assert batch.corrupted is not None
    leaves: dict[Site, Tensor] = {}
    at_target: list[tuple[Tensor, Tensor]] = []

    def cut(site: Site, x: Tensor, read: Tensor) -> Tensor:
        if site == target.site:
            at_target.append((x, read))
        leaves[site] = x.detach().requires_grad_()
        dictionary = spliced.dictionaries[site]
        past = dictionary.bypass(read) if dictionary.has_bypass else torch.zeros_like(x)
        return leaves[site] + past - past.detach()

    spliced.run_reading(batch.clean, cut)
    dictionary, (at, read) = spliced.dictionaries[target.site], at_target[0]
    # in the units of the clean run, whose statistics do not move
    features, error = taken_apart(dictionary, at, read, units=read.detach())
    statistics = dictionary.statistics(read.detach())
    place = int(target.place)  # type: ignore[arg-type]
    coefficient = coefficients[target.site][0, place]
    if target.is_error:
        value = (coefficient * error[0, place]).sum()
    else:
        row = dictionary.decoder_rows(torch.tensor([target.feature]))[0]
        scale = 1.0 if statistics is None else statistics.scale[0, place]
        value = ((coefficient @ row) * scale * features[0, place, target.feature]).sum()
    if source.site >= target.site:
        return 0.0
    gradient = torch.autograd.grad(value, leaves[source.site], allow_unused=True)[0]
    if gradient is None:
        return 0.0
    (x, read), (x2, read2) = (seen_at(spliced, run, source.site) for run in (batch.clean, batch.corrupted))
    dictionary = spliced.dictionaries[source.site]
    (f, e), (f2, e2) = taken_apart(dictionary, x, read), taken_apart(dictionary, x2, read2, units=read)
    place = int(source.place)  # type: ignore[arg-type]
    if source.is_error:
        return (gradient[0, place] @ (e2 - e)[0, place]).item()
    patched = f.clone()
    patched[0, place, source.feature] = f2[0, place, source.feature]
    moved = put_together(dictionary, patched, e, read) - put_together(dictionary, f, e, read)
    return (gradient[0, place] @ moved[0, place]).item()


def test_a_set_of_nodes_gives_the_same_edges_as_a_threshold() -> None:
    spliced, task = spliced_model(tiny_model("qwen2")), random_task(3, 4)
    effects = fc.node_effects(spliced, task, estimator="atp")
    full = {(s, t): v for s, t, v in fc.edge_effects(spliced, task, effects, node_threshold=0.0).edges()}
    chosen = [node for node, _, _ in effects.nodes()][::5]
    some = {(s, t): v for s, t, v in fc.edge_effects(spliced, task, chosen, estimator="atp").edges()}
    inside = {(s, t) for s, t in full if s in chosen and (t == METRIC or t in chosen)}
    assert {edge for edge, value in some.items() if value != 0} <= inside
    for edge in inside:
        assert some.get(edge, 0.0) == pytest.approx(full[edge], rel=1e-6, abs=1e-9)


def test_batches_change_nothing() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(5, 4)
    nodes = [node for node, _, _ in fc.node_effects(spliced, task, estimator="atp").nodes()][::3]
    one, many = (
        {(s, t): v for s, t, v in fc.edge_effects(spliced, task, nodes, estimator="atp", batch_size=size).edges()}
        for size in (5, 2)
    )
    assert one.keys() == many.keys()
    np.testing.assert_allclose([one[e] for e in one], [many[e] for e in one], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("sequential", "expected"), [(True, 12), (False, 10)])
def test_direct_connections_of_a_full_block(sequential: bool, expected: int) -> None:
    """Two layers: three from embed and resid_0 each, one from every attention and MLP; sequential: attn to mlp too."""
    found = connections(list(all_sites(2)), 2, sequential)
    into_sites = [c for c in found if c.downstream is not None]
    assert len(into_sites) == expected
    pairs = {(str(c.upstream), str(c.downstream)) for c in into_sites}
    assert (("attn_0", "mlp_0") in pairs) == sequential
    assert [str(c.upstream) for c in found if c.downstream is None] == ["resid_1"]
    skips = {(str(c.upstream), str(c.downstream)) for c in into_sites if c.through is Through.SKIP}
    assert {("mlp_0", "resid_0"), ("attn_0", "resid_0"), ("resid_0", "resid_1"), ("embed", "resid_0")} == {
        pair for pair in skips if pair[1] in ("resid_0", "resid_1") and pair[0] not in ("attn_1", "mlp_1")
    }


def test_bad_requests_are_refused() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    nodes = [Node(Site(1, "mlp"), 3, 2)]
    with pytest.raises(fc.InputError, match="'atp-drop' has no coefficients"):
        fc.edge_effects(spliced, task, nodes, estimator="atp-drop")
    with pytest.raises(fc.InputError, match="node mlp_1/99@2 does not exist"):
        fc.edge_effects(spliced, task, [Node(Site(1, "mlp"), 99, 2)], estimator="atp")
    with pytest.raises(fc.InputError, match="node mlp_1/3@9 does not exist"):
        fc.edge_effects(spliced, task, [Node(Site(1, "mlp"), 3, 9)], estimator="atp")
    with pytest.raises(fc.InputError, match="node_threshold goes with"):
        fc.edge_effects(spliced, task, nodes, estimator="atp", node_threshold=0.1)
    with pytest.raises(fc.InputError, match="embed and mlp_2 are not directly connected"):
        fc.edge_effects(spliced, task, nodes, estimator="atp").coo("embed", "mlp_2")
