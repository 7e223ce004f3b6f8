"""The planted models do what their designs say, and readouts tell the cases apart."""

from __future__ import annotations

import pytest

import featcircuits as fc
from experiments.readouts import planted, shipped
from experiments.readouts.designs import negation, overwritten_count, two_hops


def test_back_patching_gives_a_late_first_hop_its_second() -> None:
    found = planted.back_patching()
    assert found["right"] == 0.5
    assert found["best"] == "resid_0@1 <- resid_2"
    assert found["best_cell"]["own"] == {"fixed": 1.0, "broken": 0.0, "net": 0.5}
    assert found["best_cell"]["others"]["net"] < 0
    assert found["best_cell"]["random"]["net"] < 0
    assert found["any_cell"]["random"]["fixed"] > 0.5, "the best of many trials flatters even random vectors"
    assert found["best_of_control"]["random"]["net"] < 0.5


def test_only_layers_around_the_second_hop_help() -> None:
    model = two_hops()
    grid = fc.back_patch(model.spliced, model.task("two_hops"), places=[1])
    helpful = {(cell.source, cell.target) for cell in grid.cells if grid.score(cell).fixed > 0}
    assert helpful == {(2, 0), (3, 0)}, "layer 1 must run after the state is put in"


def test_a_late_node_overwrites_a_count() -> None:
    found = planted.overwriting()
    assert (found["right"], found["right_without"]) == (0.5, 1.0)
    assert found["does"] == "raises wrong"
    model = overwritten_count()
    rows = fc.promote_suppress(model.spliced, model.task("overwritten"), "exact")
    count = next(row for row in rows if model.said(row.node) == "resid_2/count@3")
    assert count.does == "raises right"


def test_shown_labels_flip_and_sinking_their_head_ends_the_fixation() -> None:
    found = planted.fixation()
    assert {name.partition("/")[2].partition("@")[0] for name, _, _ in found["flips"]} == {"shown_yes", "shown_no"}
    assert (found["right"], found["right_sunk"], found["right_other_head_sunk"]) == (0.5, 1.0, 0.5)


def test_negations_have_one_effect_and_two_ways() -> None:
    found = planted.negations()
    built, suppressed = found["construction"], found["suppression"]
    assert built["right"] == suppressed["right"] == 1.0
    assert built["on_F"] == pytest.approx(suppressed["on_F"])
    assert (built["does"], suppressed["does"]) == ("raises right", "lowers wrong")
    outcomes = [
        fc.behaviour_of(model.spliced, model.task("negated")).F_clean for model in (negation(False), negation(True))
    ]
    assert outcomes[0] == pytest.approx(outcomes[1])


def test_selectivity_tells_separate_circuits_from_shared_ones() -> None:
    apart, shared = (planted.dissociation(one, draws=50) for one in (False, True))
    assert apart["loss"] == [[1.0, 0.0], [0.0, 1.0]]
    assert apart["accuracy"] == [[0.0, 1.0], [1.0, 0.0]]
    assert max(apart["p"][0][1], apart["p"][1][0]) < 0.2
    assert shared["selectivity"] == [[0.0, 0.0], [0.0, 0.0]]
    assert min(shared["p"][0][1], shared["p"][1][0]) > 0.5


def test_the_number_is_a_vector_that_acts_without_attention() -> None:
    found = shipped.steering(fc.load(), count=40)
    assert found["F_before"] > 0 > found["F_after"]
    assert abs(found["random_largest"]) < abs(found["effect"]) / 5
    assert 0.9 < found["share_without_attention"] < 1.1
