"""Comparing estimators with exact patching, counting what they cost, and auditing what adds up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.agreement import agree, audit
from featcircuits.agreement.cost import measured
from featcircuits.agreement.plot import plot_frontier, plot_scatter
from featcircuits.agreement.scores import compare
from featcircuits.attribution.nodes import Method
from featcircuits.dictionaries import whole
from tests.tiny import FAMILIES, LAYERS, WIDTH, made_linear, n_hooks, random_task, spliced_model, tiny_model, tolerance

METHODS = ("atp", "ig:steps=2:rule=gauss", "ig-inputs:steps=2", "relp:rules=gradient", "atp-hop1")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(4, 60))
def test_scores_are_what_numpy_says(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth, noise = rng.standard_normal((2, n))
    estimate = 2 * truth + 0.3 * noise + 1
    found = compare(estimate, truth, top=5)
    assert found.pearson == pytest.approx(np.corrcoef(estimate, truth)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (estimate, truth)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found.slope == pytest.approx(np.polyfit(truth, estimate, 1)[0])
    best = [set(sorted(range(n), key=lambda i: -abs(values[i]))[: found.k]) for values in (estimate, truth)]
    assert found.overlap == pytest.approx(len(best[0] & best[1]) / found.k)


def test_nothing_is_claimed_where_there_is_nothing_to_compare() -> None:
    for truth in (np.zeros(9), np.arange(2.0)):
        found = compare(np.arange(float(len(truth))), truth, 3)
        assert math.isnan(found.pearson)
        assert math.isnan(found.overlap)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_linear_model_every_estimator_agrees_fully(family: str) -> None:
    spliced = spliced_model(made_linear(tiny_model(family)))
    found = agree(spliced, random_task(2, 4), METHODS, bases=("features", "neurons", "whole"), edge_nodes=0)
    assert {(s.basis, s.what) for s in found.scores} == {
        ("features", "feature"), ("features", "error"), ("neurons", "feature"), ("whole", "whole"),
    }  # fmt: skip
    for score in found.scores:
        assert score.comparison.pearson == pytest.approx(1, abs=1e-6)
        assert score.comparison.slope == pytest.approx(1, abs=1e-6)
        assert score.comparison.overlap == 1
    assert n_hooks(spliced.model) == 0


def test_edges_are_compared_for_methods_that_have_them() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    found = agree(spliced, task, ["atp", "atp-hop1", "relp:rules=gradient"], bases=["features"], edge_nodes=30)
    edges = [score for score in found.scores if score.what == "edge"]
    assert {score.method for score in edges} == {"atp", "relp:rules=gradient"}
    both = [[s.comparison for s in edges if s.method == method] for method in ("atp", "relp:rules=gradient")]
    assert sum(c.n for c in both[0]) > 30
    for one, other in zip(*both, strict=True):
        assert one.n == other.n
        assert one.pearson == pytest.approx(other.pearson, rel=1e-9, nan_ok=True)


def test_an_agreement_is_plain_data_and_pictures(tmp_path: pytest.TempPathFactory) -> None:
    found = agree(spliced_model(tiny_model("gpt2")), random_task(2, 4), ["atp", "relp"])
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {row["method"] for row in record["costs"]} == {"exact", "atp", "relp"}
    assert len(record["scores"]) == len(found.scores)
    for plot, name in ((plot_scatter, "scatter.png"), (plot_frontier, "frontier.png")):
        plot(found, tmp_path / name)  # type: ignore[operator]
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")  # type: ignore[operator]


def test_bad_requests_are_refused_before_anything_runs() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    for methods, bases, message in (
        (["atpp"], ["features"], "unknown method 'atpp'"),
        (["ig:step=3"], ["features"], "method 'ig' has no option 'step'"),
        (["ig:rule=simpson"], ["features"], "unknown quadrature 'simpson'"),
        (["atp:errors=none"], ["features"], "errors is 'none'; known: estimated, exact"),
        (["atp"], ["heads"], "unknown basis 'heads'; known: features, neurons, whole"),
    ):
        with pytest.raises(fc.InputError, match=message):
            agree(spliced, task, methods, bases=bases)


def test_methods_are_written_as_they_are_read() -> None:
    assert str(Method.parse("ig:steps=3:rule=gauss")) == "ig:steps=3:rule=gauss"
    assert Method.parse("relp:rules=ln+half").options == {"rules": "ln+half"}
    assert Method.parse("blend:near=atp:far=secant").options == {"near": "atp", "far": "secant"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ig:steps=3:steps=4", "method 'ig:steps=3:steps=4': steps is given twice"),
        ("ig:steps=few", "steps is 'few', but must be of type int"),
        ("ig:errors=exact", "method 'ig' has no option 'errors'; its options: steps, rule, max_rows"),
    ],
)
def test_methods_written_wrongly_are_refused(text: str, message: str) -> None:
    with pytest.raises(fc.InputError, match=message):
        Method.parse(text)


def test_an_option_written_and_given_apart_is_refused() -> None:
    assert Method.parse("ig:steps=3").adding({"rule": "gauss"}).options == {"steps": 3, "rule": "gauss"}
    with pytest.raises(fc.InputError, match="method 'ig:steps=3': steps is given twice, the other time as 5"):
        Method.parse("ig:steps=3").adding({"steps": 5})


@pytest.mark.parametrize(("method", "backwards"), [("atp", 1), ("relp", 1), ("ig-inputs:steps=4", 4)])
def test_passes_are_counted(method: str, backwards: int) -> None:
    """Two forwards read the states; each point of a method is one forward and one backward."""
    spliced, task = spliced_model(tiny_model("llama")), random_task(3, 4)
    cost = agree(spliced, task, [method], bases=["features"]).costs["features", method]
    assert cost.forwards == pytest.approx(2 + backwards)
    assert cost.backwards == pytest.approx(backwards)
    assert cost.seconds > 0
    with measured(spliced, 12) as nothing:
        pass
    assert (nothing.forwards, nothing.backwards) == (0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_audit_finds_the_laws_kept(family: str) -> None:
    rows = audit(spliced_model(tiny_model(family)), random_task(2, 4), "ig", steps=4)
    laws = {row.law for row in rows if row.exact}
    assert len(laws) == 7
    for row in rows:
        if row.exact:
            assert row.residual <= 10 * tolerance(family)
    quadrature = {row.law: row.residual for row in rows if row.law.startswith("quadrature")}
    assert quadrature["quadrature of ig, gauss, 10 points"] < quadrature["quadrature of ig, gauss, 2 points"]
    assert n_hooks(rows and spliced_model(tiny_model(family)).model) == 0


def test_an_audit_sees_a_broken_law() -> None:
    """A model whose MLPs read the attention of their layer, said not to: those edges are missing."""
    from dataclasses import replace

    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    broken = replace(spliced, architecture=replace(spliced.architecture, sequential=False))
    worst = {row.law: row.residual for row in audit(broken, task) if row.exact}
    assert worst["edges (atp) out of a node = its effect"] > 1e-3
    assert worst["the unedited splice changes no logit"] == 0


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_conductance_of_a_whole_output_is_the_sum_of_its_neurons(family: str) -> None:
    model, task = tiny_model(family), random_task(2, 4)
    outputs, neurons = (fc.load(model, {"mlp_1": make(WIDTH)}) for make in (whole, fc.dictionaries.identity))
    found = fc.node_effects(outputs, task, "ig-conductance").error("mlp_1")
    assert found.abs().max() > 1e-3
    assert torch.allclose(found, fc.node_effects(neurons, task, "ig-conductance").features("mlp_1").sum(-1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_output_is_the_sum_of_its_neurons(family: str) -> None:
    """AtP is linear; and patching a whole residual output is patching everything."""
    model, task = tiny_model(family), random_task(2, 4)
    outputs = fc.load(model, {"mlp_1": whole(WIDTH), f"resid_{LAYERS - 1}": whole(WIDTH)})
    neurons = fc.load(model, {"mlp_1": fc.dictionaries.identity(WIDTH)})
    whole_atp = fc.node_effects(outputs, task, "atp").error("mlp_1")
    assert torch.allclose(whole_atp, fc.node_effects(neurons, task, "atp").features("mlp_1").sum(-1))
    exact = fc.node_effects(outputs, task, "exact")
    assert exact.features("mlp_1").shape == (2, 4, 0)
    last = exact.error(f"resid_{LAYERS - 1}")[:, -1]
    assert torch.allclose(last, exact.total_effect, rtol=10 * tolerance(family), atol=1e-8)
    edges = fc.edge_effects(outputs, task, fc.node_effects(outputs, task, "atp"), node_threshold=0.0, method="atp")
    sums = torch.zeros(4)
    for source, _, value in edges.edges():
        if str(source.site) == "mlp_1":
            assert isinstance(source.place, int)
            sums[source.place] += value
    assert torch.allclose(sums.double(), whole_atp.mean(0), rtol=1e-4, atol=1e-6)


def test_a_whole_needs_a_width() -> None:
    with pytest.raises(fc.InputError, match="width is 0"):
        whole(0)
