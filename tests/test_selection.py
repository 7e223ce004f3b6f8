"""Selection rules: orders of the nodes that evaluation follows; searching rules find what was planted."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.circuit.pruning import Cumulative, Threshold, Top, beginning
from featcircuits.dictionaries import identity
from featcircuits.effects.nodes import node_effects
from featcircuits.effects.results import NodeEffects
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.progress import silent
from featcircuits.selection import SELECTIONS, parse_selection
from featcircuits.selection.evidence import Evidence
from featcircuits.selection.ratio import sign_share
from featcircuits.selection.rule import SelectionRule
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import LAYERS, WIDTH, made_linear, random_task, spliced_model, tiny_model

SEARCHING = ("iterated", "mask:steps=3", "greedy:pool=40")
RULES = (
    "effect",
    "helpful",
    "ratio",
    "ratio:positive=0.9:consistency=0.5",
    "ranks:estimators=atp+relp",
    "random",
    *SEARCHING,
)


@pytest.fixture(scope="module")
def traced() -> tuple[SplicedModel, fc.Task, NodeEffects]:
    spliced, task = spliced_model(tiny_model("llama"), sites=["resid_0", "mlp_1", "resid_2"]), random_task(4, 5)
    return spliced, task, node_effects(spliced, task, "atp", keep_examples=False)


@pytest.mark.parametrize("rule", RULES)
def test_an_order_holds_every_node_once_and_a_seed_repeats_it(
    rule: str, traced: tuple[SplicedModel, fc.Task, NodeEffects]
) -> None:
    order = fc.select(*traced, rule, seed=3)
    assert sorted(order, key=str) == sorted((node for node, _, _ in traced[2].nodes()), key=str)
    assert fc.select(*traced, rule, seed=3) == order


@pytest.mark.parametrize("rule", RULES)
def test_nodes_of_layers_that_are_given_come_last(rule: str, traced: tuple[SplicedModel, fc.Task, NodeEffects]) -> None:
    """In any rule, by |effect|; the others stand as if there were no other sites."""
    order = fc.select(*traced, rule, start_layer=1, seed=3)
    given = [node for node in order if node.site.layer < 1]
    assert sorted(order, key=str) == sorted((node for node, _, _ in traced[2].nodes()), key=str)
    assert order[-len(given) :] == given
    sizes = {node: abs(effect) for node, effect, _ in traced[2].nodes()}
    assert [sizes[node] for node in given] == sorted((sizes[node] for node in given), reverse=True)


@pytest.mark.parametrize("rule", ["iterated", "mask:steps=3", "greedy:pool=40"])
def test_a_search_with_a_start_layer_ablates_no_layer_before_it(
    rule: str, traced: tuple[SplicedModel, fc.Task, NodeEffects]
) -> None:
    """The same order as on a model without dictionaries there."""
    spliced, task, effects = traced
    later = spliced.only(site for site in spliced.sites if site.layer >= 1)
    scores = {node: NodeScore(effect, error) for node, effect, error in effects.nodes() if node.site.layer >= 1}
    alone = parse_selection(rule).order(Evidence(later, task, effects, scores, 3, silent, 1))
    assert fc.select(spliced, task, effects, rule, start_layer=1, seed=3)[: len(alone)] == alone
    whole = fc.select(spliced, task, effects, rule, seed=3)
    assert [node for node in whole if node.site.layer >= 1] != alone


@pytest.mark.parametrize("error_nodes", ["keep", "remove"])
@pytest.mark.parametrize("rule", ["iterated", "mask:steps=3", "greedy:pool=40"])
def test_error_nodes_that_are_given_take_no_place_in_a_search(
    rule: str, error_nodes: str, traced: tuple[SplicedModel, fc.Task, NodeEffects]
) -> None:
    order = fc.select(*traced, f"{rule}:error_nodes={error_nodes}")
    n_errors = sum(node.is_error for node in order)
    assert all(node.is_error for node in order[-n_errors:])
    assert not any(node.is_error for node in order[:-n_errors])


def test_the_start_layer_is_kept_with_a_trace_and_refused_where_there_is_none() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "resid_1"]), random_task(4, 4)
    options = {"nodes": "atp", "edges": None, "check_fit": False}
    traced = fc.trace(spliced, task, keep_nodes="top=9", start_layer=1, **options).circuit
    assert {node.site.layer for node in traced.nodes} == {1}
    assert traced.manifest["settings"]["start_layer"] == 1
    with pytest.raises(fc.InputError, match=f"start_layer is {LAYERS}; the model has layers 0 to {LAYERS - 1}"):
        fc.trace(spliced, task, start_layer=LAYERS, **options)


def test_every_rule_is_tried_here() -> None:
    assert {rule.partition(":")[0] for rule in RULES} == set(SELECTIONS)


def test_a_random_order_is_that_of_its_seed_and_knows_no_effects(
    traced: tuple[SplicedModel, fc.Task, NodeEffects],
) -> None:
    spliced, task, effects = traced
    orders = [fc.select(*traced, "random", seed=seed) for seed in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    other = {node: NodeScore(-2 * effect, 0.0) for node, effect, _ in effects.nodes()}
    assert parse_selection("random").order(Evidence(spliced, task, effects, other, 2, silent)) == orders[2]


@functools.cache
def base() -> Evidence:
    """For rules that look at scores alone: 40 examples."""
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0"]), random_task(40)
    return Evidence(spliced, task, node_effects(spliced, task, "atp", keep_examples=False), {}, 0, silent)


def ordered(rule: SelectionRule, scores: Mapping[Node, NodeScore]) -> list[Node]:
    return rule.order(replace(base(), scores=scores))


score_lists = st.lists(
    st.tuples(st.floats(-5, 5, allow_subnormal=False).filter(lambda x: x != 0), st.sampled_from([0.0, 0.1, 1.0, 10.0])),
    min_size=1,
    max_size=30,
)


def named(pairs: list[tuple[float, float]]) -> dict[Node, NodeScore]:
    return {Node(Site(0, "resid"), number, 0): NodeScore(*pair) for number, pair in enumerate(pairs)}


@given(pairs=score_lists)
@settings(max_examples=100, deadline=None)
def test_by_effect_and_helpful_first(pairs: list[tuple[float, float]]) -> None:
    scores = named(pairs)
    effects = [scores[node].effect for node in ordered(parse_selection("effect"), scores)]
    assert [abs(x) for x in effects] == sorted((abs(x) for x in effects), reverse=True)
    effects = [scores[node].effect for node in ordered(parse_selection("helpful"), scores)]
    positive = [x for x in effects if x > 0]
    assert effects[: len(positive)] == sorted(positive, reverse=True)
    assert effects[len(positive) :] == sorted(x for x in effects if x < 0)


@given(pairs=score_lists, share=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_the_ratio_holds_at_every_size_while_helpful_nodes_last(pairs: list[tuple[float, float]], share: float) -> None:
    scores = named(pairs)
    order = ordered(parse_selection(f"ratio:positive={share}"), scores)
    assert sorted(order) == sorted(scores)
    certain = {node for node, score in scores.items() if sign_share(score, 40) >= 0.95}
    assert set(order[: len(certain)]) == certain  # uncertain ones last
    n_positive = sum(scores[node].effect > 0 for node in certain)
    for size in range(1, len(certain) + 1):
        taken = [scores[node].effect for node in order[:size]]
        helpful = [x for x in taken if x > 0]
        assert len(helpful) >= min(share * size - 1e-9, n_positive)
        # within each sign the strongest come first
        assert (
            helpful == sorted((scores[n].effect for n in certain if scores[n].effect > 0), reverse=True)[: len(helpful)]
        )


def test_without_a_share_the_ratio_is_the_order_by_effect_of_certain_nodes() -> None:
    scores = named([(1.0, 0.1), (-3.0, 0.1), (2.0, 5.0), (0.5, 0.1)])
    order = ordered(parse_selection("ratio:positive=0"), scores)
    assert [scores[node].effect for node in order] == [-3.0, 1.0, 0.5, 2.0]


@pytest.mark.parametrize("kind", ["normal", "rare", "random signs"])
def test_sign_consistency_is_that_of_a_bootstrap_over_prompts(kind: str) -> None:
    """Against resampling for real; a node with random signs is not consistent."""
    generator = np.random.default_rng(0)
    for mean in (0.1, 0.3, 0.6):
        values = generator.normal(mean, 1.0, 40)
        if kind == "rare":  # active in a few prompts only
            values = np.where(np.arange(40) < 20 * mean, np.abs(values), 0)
        if kind == "random signs":
            values = np.resize([1.0, -1.0], 40) + mean * 0.1
        drawn = generator.choice(values, (20000, 40)).mean(1)
        share = (np.sign(drawn) == np.sign(values.mean())).mean()
        found = sign_share(NodeScore(values.mean(), values.std(ddof=1) / math.sqrt(40)), 40)
        assert found == pytest.approx(share, abs=0.07)
        assert kind != "random signs" or found < 0.95


def test_mean_ranks_are_the_mean_of_ranks(traced: tuple[SplicedModel, fc.Task, NodeEffects]) -> None:
    spliced, task, effects = traced
    other = node_effects(spliced, task, "ig-inputs", keep_examples=False)
    tables = [{node: abs(effect) for node, effect, _ in found.nodes()} for found in (effects, other)]
    rank = {
        node: sum(sum(table.get(n, 0) > table.get(node, 0) for n in tables[0]) for table in tables)
        for node in tables[0]
    }
    order = fc.select(spliced, task, effects, "ranks:estimators=atp+ig-inputs")
    assert [rank[node] for node in order] == sorted(rank.values())


PLANTED = (3, 7, 11)


def planted() -> tuple[SplicedModel, fc.Task, dict[Node, NodeScore]]:
    """A linear model whose answers read three neurons of its last site; scores that say the contrary."""
    model = made_linear(tiny_model("gpt2"))
    others = [j for j in range(WIDTH) if j not in PLANTED]
    with torch.no_grad():
        model.get_output_embeddings().weight[:, others] = 0
    spliced = fc.load(model, {f"resid_{LAYERS - 1}": identity(WIDTH)})
    task = random_task(6, 4)
    turn = fc.node_effects(spliced, task, "exact").total_effect.sign()  # every pair shows the behaviour
    keep = [example for example, sign in zip(task.examples, turn.tolist(), strict=True) if sign > 0]
    task = task.with_options(examples=tuple(keep))
    site = Site(LAYERS - 1, "resid")
    scores = {Node(site, j, 3): NodeScore(1.0 if j in others else 0.01, 0.0) for j in range(WIDTH)}
    return spliced, task, scores


@pytest.mark.parametrize(
    "rule", ["iterated:smallest=1", "greedy:smallest=1:pool=16", "mask:smallest=1:steps=80:rate=0.3"]
)
@pytest.mark.parametrize("error_nodes", ["as-circuit", "remove"])
def test_searching_rules_find_the_planted_nodes_whatever_the_scores_say(rule: str, error_nodes: str) -> None:
    spliced, task, scores = planted()
    effects = node_effects(spliced, task, "atp", keep_examples=False)
    order = parse_selection(f"{rule}:error_nodes={error_nodes}").order(
        Evidence(spliced, task, effects, scores, 0, silent)
    )
    assert {node.feature for node in order[: len(PLANTED)]} == set(PLANTED)


@pytest.mark.parametrize("rule", ["iterated:smallest=1", "greedy:smallest=1:pool=16:drop=0.5"])
def test_in_a_linear_model_effects_inside_a_circuit_are_the_exact_ones(rule: str) -> None:
    spliced, task, scores = planted()
    exact = {node: effect for node, effect, _ in node_effects(spliced, task, "exact", keep_examples=False).nodes()}
    effects = node_effects(spliced, task, "atp", keep_examples=False)
    order = parse_selection(rule).order(Evidence(spliced, task, effects, scores, 0, silent))
    sizes = [abs(exact[node]) for node in order[: len(PLANTED)]]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) > 0


def test_a_ranking_carries_its_order_through_files_into_the_curve(tmp_path: Path) -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "resid_1"]), random_task(4, 4)
    traced = fc.trace(spliced, task, nodes="atp", edges=None, select="helpful", keep_nodes="top=7", check_fit=False)
    order = list(traced.ranking.nodes)
    assert order == fc.select(spliced, task, node_effects(spliced, task, "atp"), "helpful")
    assert list(traced.circuit.nodes) == order[:7]
    assert traced.ranking.manifest["settings"]["select"] == "helpful"
    traced.ranking.save(tmp_path / "nodes.safetensors")
    loaded = Circuit.load(tmp_path / "nodes.safetensors")
    assert list(loaded.nodes) == order
    curves = [
        fc.evaluate(spliced, traced.circuit, task, ablation="zero", ranking=ranking, sizes=(3, 7), draws=0).curve
        for ranking in (loaded, order)
    ]
    first = Circuit({node: loaded.nodes[node] for node in order[:3]}, {}, task.places, task.aggregate)
    alone = fc.evaluate(spliced, first, task, ablation="zero", sizes=())
    for curve in curves:
        assert curve is not None
        assert curve.faithfulness[0] == pytest.approx(alone.faithfulness, rel=1e-6)


@given(pairs=score_lists)
@settings(max_examples=50, deadline=None)
def test_pruning_rules_keep_the_beginning_of_an_order(pairs: list[tuple[float, float]]) -> None:
    scores = named(pairs)
    ranking, order = Circuit(scores, {}, (0,), "none"), list(scores)
    assert list(beginning(ranking, Top(3)).nodes) == order[:3]
    assert list(beginning(ranking, Threshold(1.0)).nodes) == [n for n in order if abs(scores[n].effect) > 1]
    half = list(beginning(ranking, Cumulative(0.5)).nodes)
    total, held = (sum(abs(scores[n].effect) for n in nodes) for nodes in (order, half))
    assert half == order[: len(half)]
    assert held >= 0.5 * total * (1 - 1e-9)
    assert held - abs(scores[half[-1]].effect) < 0.5 * total


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "unknown selection rule 'best'; known: effect, helpful"),
        ("ratio:share=0.5", "selection rule 'ratio' has no option 'share'; its options: positive, consistency"),
        ("ratio:positive=much", "positive is 'much', but must be of type float"),
        ("ratio:positive=1.5", "positive is 1.5; it must be at least 0 and at most 1"),
        ("ranks:estimators=atp+magic", "unknown estimator 'magic'"),
        ("ranks:estimators=", "give names of estimators joined by"),
        ("greedy:pool=3", "pool=3, smallest=16"),
        ("iterated:drop=1", "drop is 1.0; it must be at least 0.01 and at most 0.9"),
        ("mask:steps=0", "steps is 0; it must be at least 1 and at most 100000"),
        ("mask:steps=1000000000", "steps is 1000000000; it must be at least 1"),
        ("mask:steps=1e3", "steps is '1e3', but must be of type int"),
        ("mask:rate=0", "rate is 0.0; it must be above 0 and at most 100"),
        ("greedy:pool=1_0", "pool is '1_0', but must be of type int"),
        ("greedy:smallest=٣", "smallest is '٣', but must be of type int"),
        ("iterated:smallest=0", "smallest is 0; it must be at least 1"),
        ("ratio:consistency=+1", r"consistency is '\+1', but must be of type float"),
        ("ratio:consistency=nan", "consistency is 'nan', but must be of type float"),
        ("mask:steps=2:steps=3", "steps is given twice"),
        ("mask:temperature=inf", "temperature is 'inf', but must be of type float"),
        ("iterated:ablation=median", "unknown ablation 'median'"),
        ("mask:error_nodes=drop", "error_nodes is 'drop'"),
        ("iterated", "baseline noise has no ablation of the same name"),
    ],
)
def test_rules_that_make_no_sense_are_refused_before_anything_runs(text: str, message: str) -> None:
    task, unloaded = random_task(2), None
    with pytest.raises(fc.InputError, match=message):
        fc.trace(unloaded, task, select=text, baseline="noise")  # type: ignore[arg-type]


def test_a_rule_that_needs_what_is_not_there_says_so() -> None:
    task = random_task(2)
    with pytest.raises(fc.InputError, match="needs at least 2 examples"):
        parse_selection("ratio").check(task.take(1), "paired")
    alone = fc.Task.from_tokens([[1, 2], [1, 2, 3]], None, [3, 4], metric="log_probability", aggregate="sum")
    for rule, message in (
        ("greedy:ablation=paired", "there are no pairs"),
        ("iterated:ablation=resample", "needs prompts of one length"),
        ("mask:ablation=resample", "needs prompts of one length"),
        ("greedy:ablation=resample", "needs prompts of one length"),
        ("ranks", "estimator 'ig-inputs' moves the inputs to the corrupted prompt, and the task has none"),
        ("ranks:estimators=atp+secant", "estimator 'secant' .* baseline 'zero' is not one of paired"),
    ):
        with pytest.raises(fc.InputError, match=message):
            fc.trace(None, alone, nodes="atp", select=rule, baseline="zero")  # type: ignore[arg-type]
    for name in ("nodes", "edges"):  # an estimator's own needs
        with pytest.raises(fc.InputError, match="and the task has none"):
            fc.trace(None, alone, baseline="zero", **{"nodes": "atp", name: "ig-inputs"})  # type: ignore[arg-type]
    parse_selection("greedy:ablation=zero").check(task, "noise")
