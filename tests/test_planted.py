"""Planted circuits: the models do what their designs say, truths agree with exact patching, and who misses what."""

from __future__ import annotations

import re
from csv import DictReader
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import featcircuits as fc
from experiments.frontier.page import fill
from experiments.planted import pictures
from experiments.planted.measure import Orders, edges_of, measured, order_of, scores_of
from experiments.planted.model import direction
from experiments.planted.motifs import MOTIFS, Motif, complete_and_superfluous, weak_circuit
from experiments.planted.pictures import ASKED, TELLING
from experiments.planted.scores import average_precision, precision_recall
from experiments.planted.shapes import SHAPES as SHAPE_TABLE
from experiments.planted.tables import TABLES, csv
from featcircuits.estimators import ESTIMATORS
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, ranks_of
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.model.nodes import METRIC, Node

PAGE = Path(__file__).parents[1] / "docs" / "planted.md"
SHAPES = ("gpt_neox", "llama")
TRUE = [name for name in MOTIFS if name != "decoys"]
EXPECTED = {
    "relay": (lambda s: s + 0.5, 0.5),
    "and": (lambda s: 2 * s - 1.5, 0.0), "or": (lambda s: 1.0, 0.25), "negation": (lambda s: 1.0, 0.0),
    "cancelling": (lambda s: 0.5, 0.0), "shared-1": (lambda s: 2 * s - 1.5, 0.0),
    "weak": (lambda s: 1.125 * s, 0.0), "decoys": (lambda s: 1.125 * s, 0.0),
}  # fmt: skip
"""F of the clean prompts as a function of the features' value, and of the corrupted ones; else (the value, 0)."""


@cache
def planted(name: str, shape: str) -> Motif:
    return MOTIFS[name] if shape == MOTIFS[name].shape else replace(MOTIFS[name], shape=shape)


def found_nodes(motif: Motif, task: fc.Task, estimator: str = "exact") -> set[Node]:
    return set(scores_of(fc.node_effects(motif.spliced, task, estimator)))


def ablated(motif: Motif) -> AblatedModel:
    return AblatedModel(motif.spliced, prepared_ablation("paired", motif.spliced, motif.task, 32, 0))


def F(motif: Motif, *circuits: set[Node] | fc.Circuit) -> list[float]:
    """The mean F of each circuit, with all else as in the corrupted run."""
    order = [list(one.nodes if isinstance(one, fc.Circuit) else one) for one in circuits]
    places = motif.task.places
    subgraphs = [Subgraph(ranks_of(motif.spliced, places, nodes), len(nodes)) for nodes in order]
    return ablated(motif).metric(motif.task, subgraphs).mean(1).tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MOTIFS)
def test_each_model_computes_what_was_planted(name: str, shape: str) -> None:
    motif = planted(name, shape)
    clean, corrupted = EXPECTED.get(name, (lambda s: s, 0.0))
    effects = fc.node_effects(motif.spliced, motif.task, "atp")
    torch.testing.assert_close(-effects.metric_clean, torch.tensor([clean(s) for s in (1, 1.125, 1.25, 1.5)]).double())
    assert effects.metric_corrupted is not None
    torch.testing.assert_close(-effects.metric_corrupted, torch.full((4,), corrupted).double())


@pytest.mark.parametrize("shape", SHAPE_TABLE)
def test_norms_are_the_identity(shape: str) -> None:
    model = planted("or", shape).spliced.model
    stream = torch.stack([3 * direction(2) - 0.25 * direction(5), direction(7) * 1000])
    norms = [module for name, module in model.named_modules() if "norm" in name or "ln_" in name]
    assert len(norms) == 2 * 2 + 1
    for norm in norms:
        assert torch.equal(norm(stream), stream)


@pytest.mark.parametrize(
    ("name", "shape"), [*((name, "gpt_neox") for name in TRUE), ("or", "llama"), ("backup", "llama")]
)
def test_truth_is_what_exact_patching_finds_over_all_probes(name: str, shape: str) -> None:
    """Nothing of the truth is missing, and nothing else has any effect in any probe: nodes and edges."""
    motif = planted(name, shape)
    nodes, edges = set(), set()
    for task in motif.probed():
        effects = fc.node_effects(motif.spliced, task, "exact")
        assert not any(node.is_error for node in effects.moving())
        nodes |= set(scores_of(effects, 0.0))
        edges |= set(edges_of(motif, task, effects, 0.0))
        among = fc.edge_effects(motif.spliced, task, motif.nodes | set(effects.moving()), "exact").edges()
        edges |= {(edge.upstream, edge.downstream) for edge in among if abs(edge.mean) > 1e-9}
    assert nodes == motif.nodes
    assert edges == motif.edges


@pytest.mark.parametrize("name", TRUE)
def test_the_true_circuit_is_complete_and_each_true_node_counts_somewhere(name: str) -> None:
    """All else ablated changes nothing; each true node changes F beside some other node that is ablated, or alone."""
    motif = MOTIFS[name]
    whole, nodes = F(motif, motif.nodes)[0], sorted(motif.nodes, key=str)
    clean = -fc.node_effects(motif.spliced, motif.task, "atp").metric_clean.mean()
    assert whole == pytest.approx(float(clean), abs=1e-12)
    without = [set(), *({node} for node in nodes), *map(set, combinations(nodes, 2))]
    values = dict(zip(map(frozenset, without), F(motif, *(motif.nodes - out for out in without)), strict=True))
    for node in nodes:
        changes = [abs(values[out | {node}] - values[out]) for out in values if len(out) < 2 and node not in out]
        assert max(changes) > 0.01, node


def test_and_is_found_by_noising_and_or_by_denoising() -> None:
    for name, finds, misses in (("and", "task", "swapped"), ("or", "swapped", "task")):
        motif = MOTIFS[name]
        parents = {
            motif.node("resid_0/A@3"),
            motif.node("resid_0/B@3"),
            motif.node("embed/A@1"),
            motif.node("embed/B@2"),
        }
        assert found_nodes(motif, getattr(motif, finds)) == motif.nodes
        assert not parents & found_nodes(motif, getattr(motif, misses))


def test_backup_hides_from_noising() -> None:
    """The primary's loss is made up for; and the backup itself is silent in both runs, so no estimator can see it."""
    motif = MOTIFS["backup"]
    assert found_nodes(motif, motif.task) == {motif.node("resid_2/P@3")}
    for task in (motif.task, motif.swapped):
        moving = {
            node for name in ("exact", "ig", "secant") for node in fc.node_effects(motif.spliced, task, name).moving()
        }
        assert not moving & {motif.node("mlp_2/Q@3"), motif.node("resid_2/Q@3")}


def test_atp_misses_the_cancelling_and_the_saturated_source() -> None:
    cancelling, saturated = MOTIFS["cancelling"], MOTIFS["saturated"]
    sources = {cancelling.node(name) for name in ("embed/A@1", "attn_0/A@3", "resid_0/A@3")}
    assert found_nodes(cancelling, cancelling.task, "atp") == cancelling.nodes - sources
    keys = {saturated.node("embed/K@1"), saturated.node("embed/K@2")}
    assert found_nodes(saturated, saturated.task, "atp") == saturated.nodes - keys


@pytest.mark.parametrize("estimator", ["secant", "atp-drop", "atp-star", "ig"])
def test_others_find_the_cancelling_source(estimator: str) -> None:
    motif = MOTIFS["cancelling"]
    assert motif.node("embed/A@1") in found_nodes(motif, motif.task, estimator)


@pytest.mark.parametrize("estimator", ["secant", "atp-qk", "atp-star", "atp-hop1"])
def test_finite_attention_finds_the_saturated_keys(estimator: str) -> None:
    motif = MOTIFS["saturated"]
    assert {motif.node("embed/K@1"), motif.node("embed/K@2")} <= found_nodes(motif, motif.task, estimator)


@pytest.mark.parametrize("direction", ["task", "swapped"])
@pytest.mark.parametrize("name", ["copy", "relay", "distractor"])
@pytest.mark.parametrize("estimator", ["exact", "secant", "atp", "atp-star", "ig"])
def test_linear_motifs_have_their_effects_from_all(name: str, direction: str, estimator: str) -> None:
    """Where nothing bends between both runs, estimates equal exact patching."""
    motif = MOTIFS[name]
    exact, own = (fc.node_effects(motif.spliced, getattr(motif, direction), one) for one in ("exact", estimator))
    for site in exact.sites:
        if estimator in ("exact", "secant", "atp", "ig"):
            torch.testing.assert_close(own.features(site), exact.features(site), rtol=1e-9, atol=1e-9)
    assert set(scores_of(own)) == motif.nodes


def test_decoys_take_effects_that_are_the_dictionarys() -> None:
    """The decoy's row holds a part of A's direction: exact patching ranks it over B, which is true."""
    motif = MOTIFS["decoys"]
    effects = {one.node: one.mean for one in fc.node_effects(motif.spliced, motif.task, "exact").nodes()}
    decoy, true = motif.node("resid_1/D@3"), motif.node("resid_1/B@3")
    assert effects[decoy] == pytest.approx(2 * effects[true])
    assert effects[decoy._replace(feature=None)] == pytest.approx(-effects[decoy])


def test_a_superfluous_node_adds_nothing_and_others_are_needed() -> None:
    motif, complete, superfluous = complete_and_superfluous()
    extra = set(superfluous.nodes) - set(complete.nodes)
    assert len(extra) == 1
    assert extra <= set(fc.node_effects(motif.spliced, motif.task, "exact").moving()) - motif.nodes
    own = set(superfluous.nodes)
    whole, *without = F(motif, own, *(own - {node} for node in superfluous.nodes))
    assert {node for node, value in zip(superfluous.nodes, without, strict=True) if value == whole} == extra
    assert set(complete.edges) == motif.edges
    assert all(complete.edges.values())


def test_the_weak_circuit_is_faithful_until_one_node_outside_is_ablated_alone() -> None:
    motif, circuit = weak_circuit()
    model, own = F(motif, motif.nodes, circuit)
    assert own == pytest.approx(model)
    half = {*circuit.nodes, motif.node("mlp_1/U@3"), motif.node("resid_1/U@3")}
    assert F(motif, half)[0] == pytest.approx(2 * model)


@pytest.mark.parametrize("name", [name for name in TRUE if name != "backup"])
def test_secants_miss_only_what_no_estimator_sees(name: str) -> None:
    motif = MOTIFS[name]
    for task in (motif.task, motif.swapped):
        assert found_nodes(motif, task, "secant") == motif.nodes


@pytest.mark.parametrize("name", ["and", "or", "backup", "cancelling", "saturated"])
def test_relp_misses_what_atp_misses(name: str) -> None:
    motif = MOTIFS[name]
    for task in (motif.task, motif.swapped):
        found = found_nodes(motif, task, "relp")
        assert found == found_nodes(motif, task, "atp")
    assert found_nodes(planted("cancelling", "llama"), planted("cancelling", "llama").task, "relp") >= {
        MOTIFS["cancelling"].node("embed/A@1")
    }


def test_integrated_gradients_see_the_saturated_keys_by_chance() -> None:
    motif = MOTIFS["saturated"]
    key = motif.node("embed/K@1")
    exact, ten, nine = (
        scores_of(fc.node_effects(motif.spliced, motif.task, name))[key].effect
        for name in ("exact", "ig", "ig:steps=9")
    )
    assert ten > 1.5 * exact
    assert 0 < nine < 0.02 * exact
    assert key not in found_nodes(motif, motif.task, "ig-chain")


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if ESTIMATORS[name].has_edges])
def test_features_that_are_silent_in_the_clean_run_read_nothing(estimator: str) -> None:
    """So edges are found by noising; by denoising only if they are patched, or followed on the way between the runs."""
    motif = MOTIFS["copy"]
    noising, denoising = (
        set(edges_of(motif, task, fc.node_effects(motif.spliced, task, estimator)))
        for task in (motif.task, motif.swapped)
    )
    assert noising == motif.edges
    assert denoising == (
        motif.edges if estimator in ("exact", "ig-conductance") else {(motif.node("resid_1/A@3"), METRIC)}
    )


def test_searches_find_what_effects_miss_whatever_they_began_with() -> None:
    motif = MOTIFS["or"]
    by_effect, scaled = (fc.node_effects(motif.spliced, motif.task, name) for name in ("exact", "relp"))
    order = order_of(motif, motif.task, by_effect, "mask:smallest=1")
    assert precision_recall(order_of(motif, motif.task, by_effect, "effect"), motif.nodes) == (1, 2 / 8)
    assert precision_recall(order, motif.nodes) == (1, 1)
    known: Orders = {}
    assert order_of(motif, motif.task, by_effect, "mask:smallest=1", known) == order
    assert precision_recall(order_of(motif, motif.task, scaled, "mask:smallest=1", known), motif.nodes) == (1, 1)


@pytest.mark.parametrize("name", ["and", "cancelling"])
def test_the_table_of_the_page_is_what_is_measured(name: str) -> None:
    with (PAGE.with_suffix("") / "all.csv").open(encoding="utf-8", newline="") as file:
        shipped = [row for row in DictReader(file) if row["motif"] == name and row["rule"] == "effect"]
    estimators = ["exact", "relp", "secant"]
    for shape in SHAPES:
        own = [row for row in shipped if row["shape"] == shape and row["estimator"] in estimators]
        assert own == list(DictReader(csv(measured(planted(name, shape), estimators, ["effect"])).splitlines()))


def test_pictures_and_tables_of_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are not saved, which takes seconds."""
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.update({path.name: figure}))
    rows = [row for name in TELLING for row in measured(MOTIFS[name], ["exact", "atp", "secant"], ["effect"])]
    pictures.draw(rows, tmp_path)
    assert sorted(drawn) == ["edges.png", "hits.png", "motifs.png", "nodes.png", "rules.png"]
    assert [len(drawn[name].axes) for name in ("hits.png", "nodes.png")] == [len(TELLING) * len(ASKED), 2]
    discs = [disc for axes in drawn["hits.png"].axes for disc in axes.collections]
    hollow = sum(tuple(disc.get_facecolor()[0]) == (1, 1, 1, 1) for disc in discs)
    assert hollow == sum(len(row["missed"]) for row in rows if (row["estimator"], row["direction"]) in ASKED)
    line = TABLES["missed"](rows).splitlines()[-1]
    assert line == "| `secant` | backup | backup | backup |"
    assert TABLES["edges-noising"](rows).splitlines()[2] == "| `exact` | 1.00 | .25 | 1.00 | .08 | 1.00 | 1.00 |"
    assert TABLES["shapes"](rows) == "None differs."


def test_the_page_has_every_table_once() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"<!-- table: ([\w-]+) -->", text)) == sorted(TABLES)
    assert fill(text, {}, TABLES) == text


def test_precision_recall_and_area_by_hand() -> None:
    truth = {"a", "b", "c"}
    assert precision_recall(["a", "x", "b", "c"], truth) == (2 / 3, 2 / 3)
    assert precision_recall(["a", "x", "b", "c"], truth, 4) == (3 / 4, 1)
    assert precision_recall(["b"], truth) == (1, 1 / 3)
    assert precision_recall([], truth) == (0, 0)
    assert average_precision(["a", "b", "c", "x"], truth) == 1
    assert average_precision(["x", "a", "y", "b"], truth) == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert average_precision([], truth) == 0


def test_rows_judge_nodes_and_edges() -> None:
    rows = measured(MOTIFS["and"], ["exact", "atp-star"], ["effect", "greedy:smallest=1"])
    assert len(rows) == 8
    first = rows[0]
    assert (first["direction"], first["recall"], first["edge_recall"], first["area"]) == ("noising", 1, 1, 1)
    assert "edge_recall" not in rows[2]
    assert [row["recall"] for row in rows if row["direction"] == "denoising"][0] == 2 / 8
    motif = MOTIFS["and"]
    order = order_of(motif, motif.task, fc.node_effects(motif.spliced, motif.task), "effect")
    assert set(order) == motif.nodes
