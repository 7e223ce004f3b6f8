"""Faithfulness and completeness: laws on every family, curves, random controls, refusals."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.dictionaries.decomposition import encode
from featcircuits.evaluation.curves import check_sizes, default_sizes, shuffled
from featcircuits.evaluation.faithfulness import area, area_from_one, invalid_reason
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.examples import Example
from tests.tiny import FAMILIES, KINDS, LAYERS, random_task, spliced_model, tiny_model

families = st.sampled_from(FAMILIES)
ablations = st.sampled_from(["mean", "zero", "resample"])
seeds = st.integers(0, 5)
EXACT = 1e-5
"""Shares of metrics that transformers computes in part in float32."""


def circuit_of(nodes: list[Node], task: fc.Task) -> Circuit:
    """Nodes with effects that fall, so that a ranking has no ties."""
    effects = {node: NodeScore(1.0 / (1 + rank)) for rank, node in enumerate(nodes)}
    return Circuit(effects, {}, task.places, task.aggregate)


def every_node(spliced: SplicedModel, task: fc.Task) -> list[Node]:
    return [
        Node(site, feature, place)
        for site, dictionary in spliced.dictionaries.items()
        for place in task.places
        for feature in (*range(dictionary.n_features), None)
    ]


@given(
    family=families,
    kind=st.sampled_from(KINDS),
    sites=st.sampled_from([None, ["attn_z_0", "mlp_0", "attn_1", "mlp_1", "mlp_2"]]),
    ablation=ablations,
    error_nodes=st.sampled_from(["as-circuit", "keep", "remove"]),
    start_layer=st.integers(0, LAYERS - 1),
    aggregate=st.sampled_from(["none", "sum"]),
    seed=seeds,
)
@settings(max_examples=30, deadline=None)
def test_the_full_circuit_scores_one_and_the_empty_one_zero(
    family: str,
    kind: str,
    sites: list[str] | None,
    ablation: str,
    error_nodes: str,
    start_layer: int,
    aggregate: str,
    seed: int,
) -> None:
    spliced = spliced_model(tiny_model(family, seed), kind, sites)
    task = random_task(3, 4, seed, aggregate=aggregate)
    options = {"ablation": ablation, "error_nodes": error_nodes, "start_layer": start_layer, "sizes": (), "seed": seed}
    full = fc.evaluate(spliced, circuit_of(every_node(spliced, task), task), task, **options)
    empty = fc.evaluate(spliced, circuit_of([], task), task, **options)
    if error_nodes != "remove":  # without errors even all features are not the model
        assert full.F_circuit == pytest.approx(full.F_model, abs=EXACT)
        assert full.faithfulness == pytest.approx(1, abs=EXACT / abs(full.F_model - full.F_empty))
        assert full.F_complement == pytest.approx(full.F_empty, abs=EXACT)
    else:
        assert full.faithfulness == pytest.approx(full.features_alone, abs=EXACT / abs(full.F_model - full.F_empty))
    assert empty.faithfulness == pytest.approx(0, abs=EXACT / abs(empty.F_model - empty.F_empty))
    assert [empty.F_circuit, empty.F_empty] == pytest.approx([full.F_empty] * 2, abs=EXACT)
    assert empty.F_complement == pytest.approx(full.F_circuit, abs=EXACT)
    # error nodes that are given do not count
    assert full.n_nodes == full.n_error_nodes * (25 if error_nodes == "as-circuit" else 24)


@given(family=families, ablation=ablations, size=st.integers(1, 60), seed=seeds)
@settings(max_examples=15, deadline=None)
def test_a_circuit_of_a_size_is_the_curves_point_of_that_size(family: str, ablation: str, size: int, seed: int) -> None:
    spliced, task = spliced_model(tiny_model(family, seed)), random_task(3, 4, seed)
    nodes = every_node(spliced, task)
    generator = np.random.default_rng(seed)
    order = [nodes[i] for i in generator.permutation(len(nodes))[:60]]
    report = fc.evaluate(
        spliced,
        circuit_of(order[:size], task),
        task,
        ablation=ablation,
        ranking=circuit_of(order, task),
        sizes=[size, 60],
        draws=1,
        seed=seed,
        max_rows=7,
    )
    assert report.curve is not None
    at = report.curve.sizes.index(size)
    assert report.curve.faithfulness[at] == pytest.approx(report.faithfulness, rel=1e-6, abs=1e-6)
    assert report.curve.completeness[at] == pytest.approx(report.completeness, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_node_kept_at_one_site_is_the_obvious_forward(family: str) -> None:
    """Zero ablation of one site but a feature and an error: decode what is left, by hand."""
    spliced, task = spliced_model(tiny_model(family), sites=["resid_1"]), random_task(3, 4)
    site = Site(1, "resid")
    dictionary, batch = spliced.dictionaries[site], task.batch(range(3))
    kept = [Node(site, 5, 2), Node(site, None, 1)]
    report = fc.evaluate(spliced, circuit_of(kept, task), task, ablation="zero", error_nodes="as-circuit", sizes=())

    def only_these(_: Site, x: torch.Tensor) -> torch.Tensor:
        features, error = encode(dictionary, x)
        left, rest = torch.zeros_like(features), torch.zeros_like(error)
        left[:, 2, 5], rest[:, 1] = features[:, 2, 5], error[:, 1]
        return dictionary.decode(left) + rest

    with torch.no_grad():
        logits = spliced.run(batch.clean, only_these, answers_only=True)
    expected = task.F(logits, batch.answers).mean().item()
    assert report.F_circuit == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("error_nodes", ["keep", "remove"])
def test_sizes_count_only_what_the_setting_lets_vary(error_nodes: str) -> None:
    """Error nodes are no choice of the circuit's, and take no place among so many nodes."""
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "mlp_1"]), random_task(3, 4)
    order = every_node(spliced, task)[::-5]
    features = [node for node in order if not node.is_error]
    assert len(features) < len(order)
    given = {"error_nodes": error_nodes, "ablation": "zero", "draws": 0}
    report = fc.evaluate(spliced, circuit_of(order, task), task, **given)
    assert report.curve is not None
    assert (report.n_nodes, report.curve.sizes[-1]) == (len(features), len(features))
    assert (
        report.counted == {"keep": "features; every error kept", "remove": "features; every error ablated"}[error_nodes]
    )
    few = fc.evaluate(spliced, circuit_of(features[:7], task), task, sizes=(), **given)
    curve = fc.evaluate(spliced, circuit_of([], task), task, ranking=order, sizes=(7,), **given).curve
    assert curve is not None
    assert curve.faithfulness[0] == pytest.approx(few.faithfulness, rel=1e-6)
    with pytest.raises(fc.InputError, match=f"the ranking has {len(features)} nodes in scope"):
        fc.evaluate(spliced, circuit_of([], task), task, ranking=order, sizes=(len(order),), **given)


def test_all_features_without_errors_bound_no_circuit_with_error_nodes() -> None:
    """Every error and no feature explains more than every feature and no error, where dictionaries explain little."""
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_1"]), random_task(3, 4)
    error_nodes = [node for node in every_node(spliced, task) if node.is_error]
    found = [
        fc.evaluate(spliced, circuit_of(error_nodes, one), one, ablation="paired", sizes=())
        for one in (task, _turned(task))
    ]
    (report,) = [report for report in found if report.invalid is None]
    assert report.faithfulness > report.features_alone


def test_an_area_says_over_which_sizes_it_is() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_1"]), random_task(3, 4)
    circuit = circuit_of(every_node(spliced, task), task)
    curves = [fc.evaluate(spliced, circuit, task, sizes=sizes, draws=0).curve for sizes in ((10, 40), (10, 80))]
    assert [curve.area_over for curve in curves if curve] == [(0, 40), (0, 80)]


def test_batches_change_nothing() -> None:
    spliced, task = spliced_model(tiny_model("llama")), random_task(5, 4)
    circuit = circuit_of(every_node(spliced, task)[::7], task)
    for ablation in ("mean", "resample"):
        one, many = (
            fc.evaluate(spliced, circuit, task, ablation=ablation, batch_size=size, sizes=(3, 50), seed=4)
            for size in (5, 2)
        )
        assert one.F_circuit == pytest.approx(many.F_circuit, abs=EXACT)
        assert one.curve is not None
        assert many.curve is not None
        np.testing.assert_allclose(one.curve.faithfulness, many.curve.faithfulness, atol=EXACT)


@given(count=st.integers(1, 200), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_random_controls_have_as_many_nodes_at_every_site(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    order = [Node(Site(int(layer), "mlp"), int(n), 0) for n, layer in enumerate(generator.integers(0, 4, 200))]
    control = shuffled(order, seed)
    assert Counter(node.site for node in control[:count]) == Counter(node.site for node in order[:count])
    assert sorted(control) == sorted(order)
    assert control != order


def test_areas_are_trapezoids_over_the_number_of_nodes() -> None:
    assert area([2, 4], [0.5, 1.0]) == pytest.approx((0.5 * 2 * 0.5 + 2 * 0.75) / 4)
    assert area([10], [1.0]) == pytest.approx(0.5)
    assert area_from_one([1, 2], [2.0, 1.0]) == pytest.approx((1.0 + 0.5) / 2)


def test_sizes_are_even_on_a_log_axis_and_checked() -> None:
    features = [Node(Site.parse("mlp_0"), None, number) for number in range(998)]
    cuts = [Node(Site.parse(f"resid_{layer}"), None, 0) for layer in range(2)]
    assert default_sizes(features + cuts)[0] == 3
    assert default_sizes(features + cuts)[-1] == 1000
    assert len(default_sizes(features + cuts)) == 15
    assert default_sizes(features[:3]) == (1, 2, 3)
    assert default_sizes([]) == ()
    assert check_sizes([30, 10, 10], 50) == (10, 30)
    with pytest.raises(fc.InputError, match="curve size 60: the ranking has 50"):
        check_sizes([60], 50)


def test_a_ratio_without_meaning_is_called_invalid_and_left_out_of_the_json() -> None:
    """Prompts that do not show the behaviour: ablating everything raises the metric."""
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 4)
    found = fc.evaluate(spliced, circuit_of(every_node(spliced, task)[:5], task), task, ablation="zero", sizes=(2, 5))
    turned = _turned(task)
    report = fc.evaluate(spliced, circuit_of([], turned), turned, ablation="zero", sizes=())
    valid, invalid = (found, report) if found.invalid is None else (report, found)
    assert valid.invalid is None
    assert invalid.invalid is not None
    assert "raises the metric" in invalid.invalid
    record = json.loads(json.dumps(invalid.to_json(), allow_nan=False))
    assert record["faithfulness"] is None
    assert record["F_model"] == invalid.F_model
    assert invalid_reason(torch.ones(3), torch.ones(3)) is not None


def test_the_interval_comes_from_disjoint_parts_and_holds_the_score() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(40, 4)
    report = fc.evaluate(spliced, circuit_of(every_node(spliced, task)[::2], task), task, ablation="zero", sizes=())
    assert report.folds in (0, 5)
    if report.interval is not None:
        low, high = report.interval
        assert low < report.faithfulness < high
    assert fc.evaluate(spliced, circuit_of([], task.take(8)), task.take(8), sizes=()).interval is None


def test_the_areas_have_intervals_from_parts_with_their_own_ablation_values() -> None:
    spliced = spliced_model(tiny_model("gpt2"), sites=["resid_0", "mlp_1"])
    task, found = random_task(40, 4), None
    for turned in (task, _turned(task)):  # one of the two shows the behaviour
        circuit = circuit_of(every_node(spliced, turned)[::3], turned)
        report = fc.evaluate(spliced, circuit, turned, sizes=(10, 40), draws=1)
        found = (turned, circuit, report) if report.invalid is None else found
    assert found is not None
    task, circuit, report = found
    curves = [
        fc.evaluate(spliced, circuit, task.with_options(examples=task.examples[n::5]), sizes=(10, 40), draws=1).curve
        for n in range(5)
    ]
    assert report.curve is not None
    assert report.curve.intervals is not None
    for number, center in enumerate(report.curve.faithfulness):
        half = 2.776 * np.std([curve.faithfulness[number] for curve in curves], ddof=1) / 5**0.5
        assert report.curve.intervals[number] == pytest.approx((center - half, center + half), rel=1e-5)
    for name in ("area", "area_from_one"):
        parts = [getattr(curve, name) for curve in curves]
        half = 2.776 * np.std(parts, ddof=1) / 5**0.5
        center = getattr(report.curve, name)
        assert getattr(report.curve, f"{name}_interval") == pytest.approx((center - half, center + half), rel=1e-5)


def _turned(task: fc.Task) -> fc.Task:
    """The answers exchanged."""
    return task.with_options(
        examples=tuple(Example(e.clean, e.corrupted, e.corrupted_answers, e.clean_answers) for e in task.examples)
    )


def test_bad_requests_are_refused() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 4)
    circuit = circuit_of([Node(Site(0, "mlp"), 1, 0)], task)
    with pytest.raises(fc.InputError, match="unknown ablation 'median'"):
        fc.evaluate(spliced, circuit, task, ablation="median")
    with pytest.raises(fc.InputError, match="error_nodes is 'drop'"):
        fc.evaluate(spliced, circuit, task, error_nodes="drop")
    with pytest.raises(fc.InputError, match="start_layer is 9"):
        fc.evaluate(spliced, circuit, task, start_layer=9)
    with pytest.raises(fc.InputError, match="aggregate='none'"):
        fc.evaluate(spliced, circuit, task.with_options(aggregate="sum"))
    with pytest.raises(fc.InputError, match="node mlp_0/1@3 of the circuit is at a place"):
        fc.evaluate(spliced, circuit_of([Node(Site(0, "mlp"), 1, 3)], task), random_task(3, 3))
    with pytest.raises(fc.InputError, match="node mlp_0/99@0 does not exist"):
        fc.evaluate(spliced, circuit_of([Node(Site(0, "mlp"), 99, 0)], task), task)
    examples = (*random_task(1, 4).examples, *random_task(1, 5).examples)
    mixed = fc.Task(examples, aggregate="sum", keep_wrong=True)
    with pytest.raises(fc.InputError, match="needs prompts of one length"):
        fc.evaluate(spliced, circuit_of([Node(Site(0, "mlp"), 1, None)], mixed), mixed, ablation="resample")
