"""Features of different dictionaries: planted permutations are found, by decoders and by activations."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import featcircuits as fc
from featcircuits.dictionaries import relu
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import random_dictionary, random_task, spliced_model, tiny_model, traced

SITES = ["mlp_0", "resid_1"]


@cache
def first() -> SplicedModel:
    return spliced_model(tiny_model("gpt2"), sites=SITES)


def permuted(model: SplicedModel, seed: int = 0, drop: int = 0) -> tuple[SplicedModel, dict[str, list[int]]]:
    """The model with the features of each dictionary in another order, the last `drop` of them replaced.

    Besides, for each site: the old number of each new feature.
    """
    generator, found, orders = torch.Generator().manual_seed(seed), {}, {}
    for site, dictionary in model.dictionaries.items():
        order = torch.randperm(dictionary.n_features, generator=generator)
        own, other = dictionary.tensors(), random_dictionary(seed=99).tensors()
        parts = {name: own[name].clone() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        last = slice(dictionary.n_features - drop, dictionary.n_features)
        for name in ("W_enc", "b_enc", "W_dec"):
            columns = (slice(None), last) if name == "W_enc" else (last,)
            parts[name][columns] = other[name][columns].to(parts[name])
        found[str(site)] = relu(parts["W_enc"][:, order], parts["b_enc"][order], parts["W_dec"][order], parts["b_dec"])
        orders[str(site)] = order.tolist()
    return fc.load(model.model, found), orders


@pytest.mark.parametrize("by", ["decoder", "activation"])
def test_a_permutation_is_found_and_undone(by: str) -> None:
    task = random_task(16, 6, aggregate="sum")
    other, orders = permuted(first())
    matching = fc.match_features(first(), other, by=by, task=task, least=0.9)
    for site, matches in matching.matches.items():
        assert all(orders[str(site)][one.other] == one.feature for one in matches)
        active = len(matches) if by == "activation" else 24
        assert active >= 18, "features that no token activates have no correlation"
        assert min(one.score for one in matches) == pytest.approx(1.0)
    here, there = (traced(model, task, nodes="atp", keep_nodes="top=20") for model in (first(), other))
    with pytest.raises(fc.InputError, match="different dictionaries at mlp_0 and 1 more sites"):
        fc.compare({"here": here, "there": there})
    pair = fc.compare({"here": here, "there": matching.renamed(there)}).pairs[0]
    assert pair.nodes.jaccard == pair.nodes.same_sign == 1.0
    assert pair.edges is not None
    assert pair.nodes.distance == pytest.approx(0.0, abs=1e-5)
    assert pair.edges.distance == pytest.approx(0.0, abs=1e-5)


def test_features_without_a_match_get_numbers_that_no_feature_has() -> None:
    other, _ = permuted(first(), seed=1, drop=6)
    matching = fc.match_features(first(), other, least=0.95)
    assert {len(matches) for matches in matching.matches.values()} == {18}
    task = random_task(6, 6, aggregate="sum")
    renamed = matching.renamed(traced(other, task, nodes="atp", keep_nodes="top=48"))
    numbers = {node.feature for node in renamed.nodes if node.feature is not None}
    assert any(number >= 24 for number in numbers)
    assert not any(18 <= number < 24 for number in numbers), "the replaced features are not those of the first"


def test_only_the_features_of_a_circuit_are_matched_each_with_one() -> None:
    circuit = traced(first(), random_task(6, 6, aggregate="sum"), nodes="atp", keep_nodes="top=5")
    twice = {site: random_dictionary(seed=at % 2) for at, site in enumerate(SITES)}
    matching = fc.match_features(first(), fc.load(first().model, twice), circuit)
    wanted = {(str(node.site), node.feature) for node in circuit.nodes if node.feature is not None}
    assert {(str(site), one.feature) for site, own in matching.matches.items() for one in own} == wanted
    for own in matching.matches.values():
        assert len({one.other for one in own}) == len(own)


def test_correlations_are_those_of_numpy() -> None:
    from featcircuits.comparison.coactivation import correlations

    task, (other, _) = random_task(5, 4, aggregate="sum"), permuted(first())
    (site, ids), *_ = ((site, torch.arange(24)) for site in first().sites)
    found = correlations(first(), other, {site: ids}, task, batch_size=2)[site]
    tokens = next(task.batches(5)).clean
    one, two = (
        model.dictionaries[site].encode(model.record(tokens, [site])[1][site]).flatten(0, 1).detach().numpy()
        for model in (first(), other)
    )
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(one.T, two.T)[:24, 24:]
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-5)


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(fc.InputError, match="no site in common"):
        fc.match_features(first(), spliced_model(first().model, sites=["resid_0"]))
    with pytest.raises(fc.InputError, match="over the tokens of a task; give task="):
        fc.match_features(first(), first(), by="activation")
    with pytest.raises(fc.InputError, match="unknown way to match features 'label'; known: decoder, activation"):
        fc.match_features(first(), first(), by="label")
