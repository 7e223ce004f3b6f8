"""Nodes and their numbers: one to one, the same for one node and for many."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.states.index import NodeIndex

SITES = (Site.parse("embed"), Site.parse("attn_0"), Site.parse("resid_1"))
places_of_a_task: st.SearchStrategy[Sequence[Place]] = st.one_of(
    st.just([None]),
    st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from(["subject", "verb", "end"]), min_size=1, unique=True),
)


@st.composite
def indices(draw: st.DrawFn) -> NodeIndex:
    """Of some sites, of which any may have an error and no feature."""
    sites = draw(st.lists(st.sampled_from(SITES), min_size=1, unique=True))
    return NodeIndex(tuple(draw(places_of_a_task)), {site: draw(st.integers(0, 4)) for site in sites})


def nodes_at(index: NodeIndex, site: Site) -> list[Node]:
    """Every node of a site: place by place, features and then the error."""
    features = [*range(index.n_features[site]), None]
    return [Node(site, feature, place) for place in index.places for feature in features]


@given(index=indices())
def test_numbers_count_the_nodes_of_a_site_one_by_one(index: NodeIndex) -> None:
    for site in index.n_features:
        nodes = nodes_at(index, site)
        assert [index.number(node) for node in nodes] == list(range(index.count(site)))
        assert [index.node(site, number) for number in range(index.count(site))] == nodes


@given(index=indices())
def test_many_nodes_have_the_numbers_of_each(index: NodeIndex) -> None:
    for site in index.n_features:
        numbers = torch.arange(index.count(site))
        place, node = index.split(site, numbers)
        assert index.numbers(site, place, node).equal(numbers)
        assert [index.places[number] for number in place.tolist()] == [n.place for n in nodes_at(index, site)]
        assert numbers.view(index.shape(site))[:, -1].tolist() == [
            index.number(Node(site, None, place)) for place in index.places
        ]


@given(index=indices(), seed=st.integers(0, 9))
def test_a_list_of_nodes_falls_apart_by_site(index: NodeIndex, seed: int) -> None:
    every = [node for site in index.n_features for node in nodes_at(index, site)]
    nodes = [every[i] for i in torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))]
    found: dict[int, Node] = {}
    for site, (number, turn) in index.by_site(nodes).items():
        found |= {t: index.node(site, n) for n, t in zip(number.tolist(), turn.tolist(), strict=True)}
    assert [found[turn] for turn in range(len(nodes))] == nodes


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("mlp_0/1@2", "the suite has no dictionary at mlp_0"),
        ("resid_1/3@2", "the dictionary of resid_1 has 3 features"),
        ("resid_1/error@4", r"its place is not one of the task's, \[2, 3\]"),
        ("resid_1/error", r"its place is not one of the task's, \[2, 3\]"),
    ],
)
def test_a_node_that_does_not_exist_is_refused(node: str, reason: str) -> None:
    index = NodeIndex((2, 3), {Site.parse("resid_1"): 3})
    for ask in (index.number, index.place, index.check, lambda one: index.by_site([one])):
        with pytest.raises(fc.InputError, match=f"node {node} does not exist here: {reason}"):
            ask(Node.parse(node))
