"""AtP's second order: the correction by Hessian-vector products, and the reliability score made of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.checks.reliability import Orders
from featcircuits.estimators.quadrature import points
from featcircuits.states.states import states_of
from tests.tiny import random_task, spliced_model, tiny_model


@given(a=st.floats(-5, 5), b=st.floats(-5, 5), steps=st.integers(1, 20))
def test_the_rule_is_exact_for_gradients_that_are_linear(a: float, b: float, steps: int) -> None:
    found = points("taylor", steps)
    assert sum(weight for _, weight in found) == pytest.approx(1.0)
    assert sum(weight * (a + b * alpha) for alpha, weight in found) == pytest.approx(a + b / 2, abs=1e-9)
    # of the square of alpha each step lacks a third of its own cube
    square = sum(weight * alpha**2 for alpha, weight in found)
    assert square == pytest.approx(1 / 3 - 1 / (3 * steps**2), abs=1e-9)


def test_the_second_order_of_a_whole_site_is_that_of_the_metric() -> None:
    model = tiny_model("llama").double()
    spliced = fc.load(model, {"resid_1": fc.dictionaries.whole(model.config.hidden_size)})
    task = random_task(1)
    states = states_of(spliced, task, next(iter(task.batches(1))))
    state = states.sites[spliced.sites[0]]

    def m(alpha: float) -> float:
        moved = state.x + alpha * state.x_change.to(state.x.dtype)
        with torch.no_grad():
            logits = spliced.run(states.batch.clean, lambda site, x: moved, answers_only=True)
        return float(states.objective(logits).sum())

    h = 1e-2
    orders = fc.reliability(spliced, task).nodes.values()
    # some of the model's own parts are float32
    assert sum(one.first for one in orders) == pytest.approx((m(h) - m(-h)) / (2 * h), rel=1e-3)
    assert sum(one.second for one in orders) == pytest.approx((m(h) - 2 * m(0) + m(-h)) / (2 * h**2), rel=2e-2)


def test_flagged_effects_are_less_accurate_on_the_shipped_suite() -> None:
    spliced = fc.load()
    task = fc.Task.from_jsonl("saes/grammar-4l/tasks/agreement_rc_train.jsonl", spliced.tokenizer).take(6)
    found = fc.reliability(spliced, task)
    exact = {node: mean for node, mean, _ in fc.node_effects(spliced, task, "exact").nodes() if abs(mean) > 1e-3}
    wrong = {node: abs(found.nodes[node].first - mean) / abs(mean) for node, mean in exact.items()}
    flagged = {*found.flagged}
    bad, good = ([error for node, error in wrong.items() if (node in flagged) == which] for which in (True, False))
    assert min(len(bad), len(good)) > 50
    assert np.median(bad) > 2 * np.median(good)
    json.dumps(found.to_json())


def test_a_score_is_between_nothing_and_all() -> None:
    assert (Orders(1.0, 0.0).reliability, Orders(0.0, 1.0).reliability, Orders(-1.0, 3.0).reliability) == (1, 0, 0.25)
    assert np.isnan(Orders(0.0, 0.0).reliability)


def test_every_node_that_atp_scores_has_both_orders() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_2"]), random_task(3)
    found = fc.reliability(spliced, task, baseline="zero")
    assert set(found.nodes) == {node for node, _, _ in fc.node_effects(spliced, task, "atp", baseline="zero").nodes()}
