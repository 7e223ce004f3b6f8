"""Circuits beside each other: figures by hand, identities of any circuit, and unions in every format."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.circuit.layout import drawn
from featcircuits.circuit.membership import colours_in
from featcircuits.comparison.overlap import overlap
from featcircuits.comparison.picture import plot_distances
from featcircuits.comparison.places import summed
from featcircuits.export import EXPORTERS
from featcircuits.model.nodes import METRIC, Node
from tests.test_circuit import circuits
from tests.test_export import READERS

quick = settings(max_examples=25, deadline=None)


def circuit(effects: dict[str, float], edges: dict[tuple[str, str], float] | None = None) -> Circuit:
    nodes = {Node.parse(name): NodeScore(effect) for name, effect in effects.items()}
    return Circuit(nodes, edges or {}, (0, 1), "none")  # type: ignore[arg-type]


FIRST = circuit(
    {"mlp_0/1@0": 4.0, "resid_0/2@1": -2.0, "resid_1/3@1": 2.0},
    {("mlp_0/1@0", "resid_0/2@1"): 1.0, ("resid_1/3@1", METRIC): 2.0},
)
SECOND = circuit(
    {"mlp_0/1@0": 1.0, "resid_0/2@1": 3.0, "resid_1/9@1": 4.0},
    {("mlp_0/1@0", "resid_0/2@1"): -3.0, ("resid_1/9@1", METRIC): 1.0},
)


def test_figures_of_two_sets_by_hand() -> None:
    found = fc.compare({"a": FIRST, "b": SECOND}).pairs[0]
    nodes = found.nodes
    assert (nodes.first, nodes.second, nodes.shared, nodes.jaccard) == (3, 3, 2, 0.5)
    assert nodes.weighted == pytest.approx((1 + 2) / (4 + 3 + 2 + 4))
    assert nodes.weighted_shares == pytest.approx((1 / 8 + 2 / 8) / (4 / 8 + 3 / 8 + 2 / 8 + 4 / 8))
    assert (nodes.same_sign, nodes.distance) == (0.5, 1 - nodes.weighted)
    assert math.isnan(nodes.rank), "two shared nodes have no rank correlation"
    assert found.edges is not None
    assert (found.edges.shared, found.edges.jaccard, found.edges.same_sign) == (1, 1 / 3, 0.0)
    assert {name: one.shared for name, one in found.nodes_by_layer.items()} == {"layer 0": 2, "layer 1": 0}
    assert [*found.nodes_by_kind] == ["mlp", "resid"]
    assert {name: one.jaccard for name, one in found.edges_by_kind.items()} == {
        "mlp -> resid": 1.0,
        "resid -> metric": 0.0,
    }


def test_ranks_are_those_of_sizes() -> None:
    found = overlap({"a": 1.0, "b": -2.0, "c": 3.0}, {"a": -10.0, "b": 20.0, "c": 30.0})
    assert (found.rank, found.weighted_shares) == (pytest.approx(1.0), pytest.approx(1.0))
    assert overlap({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 9.0, "b": 4.0, "c": 1.0}).rank == pytest.approx(-1.0)


@quick
@given(one=circuits())
def test_a_circuit_has_distance_0_from_itself(one: Circuit) -> None:
    assume(any(score.effect for score in one.nodes.values()))
    found = fc.compare({"a": one, "b": one})
    assert found.pairs[0].nodes.jaccard == found.pairs[0].nodes.same_sign == 1.0
    assert (found.distances() == 0).all()
    if any(one.edges.values()):
        assert (found.distances("edges") == 0).all()
    assert found.shared("a").nodes == one.nodes
    assert not found.own("a").nodes


@quick
@given(one=circuits())
def test_sums_over_places_keep_every_total(one: Circuit) -> None:
    found = summed(one)
    for site in {node.site for node in one.nodes}:
        total = math.fsum(score.effect for node, score in one.nodes.items() if node.site == site)
        assert math.fsum(score.effect for node, score in found.nodes.items() if node.site == site) == pytest.approx(
            total, abs=1e-6
        )
    assert math.fsum(found.edges.values()) == pytest.approx(math.fsum(one.edges.values()), abs=1e-6)
    assert summed(found).nodes.keys() == found.nodes.keys()


def test_parts_are_circuits_of_what_is_shared_and_of_what_is_not() -> None:
    found = fc.compare({"a": FIRST, "b": SECOND})
    assert {str(node): score.effect for node, score in found.shared("b").nodes.items()} == {
        "mlp_0/1@0": 1.0,
        "resid_0/2@1": 3.0,
    }
    assert [*found.shared("a").edges.values()] == [1.0]
    assert [*map(str, found.own("a").nodes)] == ["resid_1/3@1"]
    assert [*found.own("a").edges.values()] == [2.0]


@pytest.mark.parametrize("name", READERS)
def test_every_format_says_which_circuits_have_what(name: str, tmp_path: Path) -> None:
    union = fc.compare({"ioi": FIRST, "gender": SECOND}).union()
    EXPORTERS[name].write(union, tmp_path / "union.out")
    graph = READERS[name](tmp_path / "union.out")
    assert graph.nodes["mlp_0/1@0"]["membership"] == "all circuits"
    assert graph.nodes["resid_1/9@1"]["membership"] == graph.nodes["resid_1/9@1"]["group"] == "gender"
    assert graph.nodes["mlp_0/1@0"]["effect"] == 2.5
    assert graph.edges["resid_1/3@1", "metric"]["membership"] == "ioi"
    assert graph.edges["mlp_0/1@0", "resid_0/2@1"]["weight"] == -1.0


def test_colours_are_those_of_memberships_and_the_picture_explains_them(tmp_path: Path) -> None:
    third = circuit({"resid_1/3@1": 1.0})
    union = fc.compare({"a": FIRST, "b": SECOND, "c": third}).union()
    colours = colours_in(union.manifest)
    assert [*colours] == ["a", "b", "a + b", "a + c", "all circuits"]
    assert len({*colours.values()}) == len(colours)
    shown = dict(drawn(union).nodes(data=True))
    assert shown["mlp_0/1@0"]["color"] == colours["a + b"]
    assert shown["resid_1/3@1"]["color"] == colours["a + c"]
    assert drawn(union).edges["resid_1/9@1", METRIC]["color"] == colours["b"]
    texts = {text.get_text() for text in fc.export.draw_circuit(union).axes[0].texts}
    assert {"in a", "in b", "in a + b", "in a + c"} <= texts
    assert "works against it" not in texts
    union.save(tmp_path / "union.safetensors")
    assert Circuit.load(tmp_path / "union.safetensors").to_networkx().nodes["mlp_0/1@0"]["membership"] == "a + b"


def test_heat_maps_have_a_panel_of_edges_only_where_there_are_edges(tmp_path: Path) -> None:
    found = fc.compare({"a": FIRST, "b": SECOND, "c": replace(FIRST, edges={})})
    assert np.isnan(found.distances("edges")[0, 2])
    for kind in ("png", "svg"):
        plot_distances(found, tmp_path / f"distances.{kind}")
        assert (tmp_path / f"distances.{kind}").stat().st_size > 1000


def test_circuits_of_other_dictionaries_or_places_are_refused_and_other_units_named() -> None:
    def made(mark: str, metric: str) -> Circuit:
        suite = {"sites": {"resid_0": {"fingerprint": mark}}}
        return replace(FIRST, manifest={"suite": suite, "task": {"metric": metric, "name": metric}})

    one, other = made("1", "probability"), made("2", "probability")
    with pytest.raises(fc.InputError, match="different dictionaries at resid_0, so the same number"):
        fc.compare({"a": one, "b": other})
    assert fc.compare({"a": one, "b": other}, check=False).notes == ()
    notes = fc.compare({"a": one, "b": made("1", "logit_difference")}).notes
    assert [note.partition(" (")[0] for note in notes] == [
        "Effects are in different units",
        "Nodes are at token positions of different tasks",
    ]
    with pytest.raises(fc.InputError, match="compare features wherever they are by places='sum'"):
        fc.compare({"a": FIRST, "b": summed(FIRST)})
    assert fc.compare({"a": FIRST, "b": summed(FIRST)}, places="sum").pairs[0].nodes.jaccard == 1.0
