"""Every curve with every control: ends on all families, what the shipped model shows, reasons in place of numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import featcircuits as fc
from experiments.planted.motifs import MOTIFS, weak_circuit
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, metric_model, ranks_of
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.evaluation.faithfulness import Reference, area
from featcircuits.evaluation.masked import masked_metric
from featcircuits.evaluation.scope import scope_of
from featcircuits.validation.control_plot import draw_controls
from featcircuits.validation.controls import ControlCurves
from featcircuits.validation.outside import Cube, drawn_scores, extremes
from tests.test_evaluation import EXACT, every_node
from tests.tiny import FAMILIES, KINDS, LAYERS, random_task, spliced_model, tiny_model


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from(KINDS),
    ablation=st.sampled_from(["mean", "zero", "resample", "paired", "optimal"]),
    error_nodes=st.sampled_from(["as-circuit", "keep"]),
    start_layer=st.integers(0, LAYERS - 1),
    seed=st.integers(0, 5),
)
@settings(max_examples=3, deadline=None)
def test_a_full_circuit_is_the_model_at_every_point_and_an_empty_one_ends_at_both(
    family: str, kind: str, ablation: str, error_nodes: str, start_layer: int, seed: int
) -> None:
    spliced, task = spliced_model(tiny_model(family, seed), kind), random_task(3, 4, seed)
    scope = scope_of(spliced, start_layer)
    nodes = [node for node in every_node(scope, task) if error_nodes == "as-circuit" or not node.is_error]
    values = (
        fc.optimal_constants(spliced, task, nodes[:9], start_layer=start_layer, steps=2)
        if ablation == "optimal"
        else prepared_ablation(ablation, scope, task, 2, seed)
    )
    ablated = AblatedModel(scope, values, error_nodes, start_layer, batch_size=2)
    ranks = ranks_of(scope, task.places, nodes)
    cube = Cube.of(ablated, task, Subgraph(ranks, 0))
    model = metric_model(spliced, task, 2)
    close = {"atol": EXACT, "rtol": EXACT}
    torch.testing.assert_close(cube.metric(cube.inside), ablated.metric(task, [Subgraph(ranks, 0)])[0], **close)
    ones = {site: torch.ones_like(mask) for site, mask in cube.inside.items()}
    torch.testing.assert_close(cube.metric(cube.at(ones)), model, **close)
    full = cube.around(Subgraph(ranks, len(nodes)))
    reference = Reference(float(model.mean()), float(model.mean()) - 1)
    lowest, highest, free = extremes(full, reference, 2, 2)
    found = [*drawn_scores(full, reference, 2, seed), lowest.faithfulness, highest.faithfulness]
    assert found == pytest.approx([1.0] * 4, abs=EXACT)
    assert free == 0


def test_draws_are_masks_and_the_same_for_every_circuit() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 4)
    ablated = AblatedModel(spliced, prepared_ablation("mean", spliced, task, 3, 0), batch_size=3)
    ranks = ranks_of(spliced, task.places, every_node(spliced, task)[::3])
    (batch,) = ablated.prepared(task)
    for size in (0, 40):
        cube = Cube.of(ablated, task, Subgraph(ranks, size))
        generator = torch.Generator().manual_seed(4)
        factors = {
            site: torch.rand(mask.shape, generator=generator, dtype=torch.float64) for site, mask in cube.inside.items()
        }
        masks = {site: 1 - (1 - mask) * (1 - factors[site]) for site, mask in cube.inside.items()}
        by_hand = float(masked_metric(ablated, batch, masks).mean())
        drawn = drawn_scores(cube, Reference(1.0, 0.0), 3, seed=4)
        assert drawn[0] == pytest.approx(by_hand)
        assert len(set(drawn)) == 3
        assert drawn == drawn_scores(cube, Reference(1.0, 0.0), 3, seed=4)
        assert drawn != drawn_scores(cube, Reference(1.0, 0.0), 3, seed=5)


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, fc.Task, fc.Task, Any]:
    model = fc.load()
    train, test = (
        fc.Task.from_jsonl(f"saes/grammar-4l/tasks/agreement_simple_{part}.jsonl", model.tokenizer).take(count)
        for part, count in (("train", 24), ("test", 12))
    )
    return model, train, test, fc.trace(model, train, edges=None, keep_nodes="top=100")


@pytest.fixture(scope="module")
def curves(shipped: Any) -> ControlCurves:
    model, train, test, trace = shipped
    return fc.control_curves(
        model, trace.circuit, test, training=train, ranking=trace.ranking, sizes=[40, 150], draws=3, nonsense=1,
        steps=1, learning=6, seed=1,
    )  # fmt: skip


def test_the_shipped_model_passes_its_controls(curves: ControlCurves) -> None:
    assert all(curve.invalid is None for curve in curves.curves)
    scores = {curve.name: curve.scores or () for curve in curves.curves}
    for name in ("mean", "paired", "optimal", "stochastic"):
        assert scores[name][1] > 0.8
    # neither random circuits nor circuits chosen on nonsense gain anything
    assert scores["random"] == pytest.approx((0, 0), abs=0.05)
    assert scores["nonsense"] == pytest.approx((0, 0), abs=0.1)
    # the search begins where all else is ablated, so it is never kinder
    for worst in ("adversarial", "adversarial few"):
        assert all(abs(1 - w) >= abs(1 - f) - 1e-6 for w, f in zip(scores[worst], scores["mean"], strict=True))
    assert abs(1 - scores["adversarial"][0]) > abs(1 - scores["adversarial few"][0])
    assert scores["stochastic 5 %"][0] <= scores["stochastic"][0]
    mean = curves["mean"]
    assert mean.area == pytest.approx(area(curves.sizes, mean.scores or ()))
    assert curves["stochastic"].at_zero != 0


def test_plain_curves_are_those_of_evaluate(shipped: Any, curves: ControlCurves) -> None:
    model, _, test, trace = shipped
    report = fc.evaluate(model, trace.circuit, test, ablation="paired", ranking=trace.ranking, sizes=[40, 150], draws=1)
    assert report.curve is not None
    assert curves["paired"].scores == pytest.approx(report.curve.faithfulness, rel=1e-6, abs=1e-6)
    assert curves["paired"].F_empty == pytest.approx(report.F_empty)
    assert curves["paired"].area == pytest.approx(report.curve.area)


def test_an_adversary_with_few_nodes_finds_the_planted_weakness() -> None:
    motif, circuit = weak_circuit()
    found = fc.control_curves(
        motif.spliced, circuit, motif.task, ablation="paired", sizes=[4], draws=1, learning=1, steps=4
    )
    assert found["paired"].scores == pytest.approx((1.0,))
    # one of two opposite nodes alone doubles the answer or takes all of it away
    assert [abs(1 - score) for score in found["adversarial few"].scores or ()] == pytest.approx([1.0])


def test_without_training_and_pairs_there_are_reasons() -> None:
    motif, circuit = weak_circuit()
    single = replace(motif.task, examples=tuple(replace(e, corrupted=None) for e in motif.task.examples))
    found = fc.control_curves(motif.spliced, circuit, single, ablation="zero", sizes=[4], steps=2, check=False)
    for name in ("paired", "optimal", "nonsense"):
        assert found[name].scores is None
        assert found[name].area is None
        assert found[name].invalid
    assert "give training" in (found["nonsense"].invalid or "")
    assert found["zero"].scores is not None
    with pytest.raises(fc.InputError, match="no curve 'best'"):
        found["best"]


def test_where_nothing_is_to_explain_no_curve_has_a_number() -> None:
    motif = MOTIFS["copy"]
    wrong = replace(motif, answers=("no", "yes")).task
    found = fc.control_curves(
        motif.spliced, motif.circuit, wrong, training=wrong, sizes=[4], ablation="paired", steps=1, learning=1
    )
    assert all(found[name].scores is None for name in ("paired", "stochastic", "adversarial", "random", "nonsense"))
    assert "does not show the behaviour" in (found["paired"].invalid or "")
    record = found.to_json()
    assert record["curves"][3]["scores"] is None


def test_pictures_are_repeatable_and_need_a_curve(curves: ControlCurves, tmp_path: Path) -> None:
    figure = draw_controls(curves)
    assert len(figure.axes[0].lines) == len(curves.curves) + 2
    void = tuple(replace(curve, scores=None, invalid="nothing to explain") for curve in curves.curves)
    with pytest.raises(fc.InputError, match="nothing to explain"):
        draw_controls(replace(curves, curves=void))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"ablation": "median"}, "unknown ablation"),
        ({"draws": 0}, "draws is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"budget": 0}, "budget is 0"),
        ({"nonsense": 0}, "nonsense is 0"),
        ({"sizes": [99]}, "curve size 99"),
        ({"select": "best"}, "unknown selection rule"),
        ({"error_nodes": "lost"}, "error_nodes is 'lost'"),
        ({"learning": 0}, "learning is 0"),
    ],
)
def test_bad_requests_are_refused(option: dict[str, Any], message: str) -> None:
    motif = MOTIFS["copy"]
    with pytest.raises(fc.InputError, match=message):
        fc.control_curves(motif.spliced, motif.circuit, motif.task, **option)
