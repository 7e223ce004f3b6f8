"""Arguments of Python: of another type, of another model, or that do not go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import featcircuits as fc
from featcircuits.estimators.ig import IntegratedGradients
from tests.bad_inputs.case import Case
from tests.bad_inputs.shared import tiny
from tests.test_belonging import Made, noised, other_suite, scaled, words
from tests.tiny import VOCABULARY, random_task

CALLS: dict[str, Callable[[Any], object]] = {
    "a path as a task": lambda m: fc.trace(m.model, "pairs.jsonl"),
    "a name as a model": lambda m: fc.trace("gpt2", m.task),
    "transformers' model as it is": lambda m: fc.trace(m.model.model, m.task),
    "`keep_nodes=100`": lambda m: fc.trace(m.model, m.task, keep_nodes=100),
    "`nodes=5`": lambda m: fc.trace(m.model, m.task, nodes=5),
    "`select=5`": lambda m: fc.trace(m.model, m.task, select=5),
    "`seed=1.5`": lambda m: fc.trace(m.model, m.task, seed=1.5),
    "`seed=-1`": lambda m: fc.trace(m.model, m.task, seed=-1),
    "`start_layer=3` of three layers": lambda m: fc.trace(m.model, m.task, start_layer=3, check_fit=False),
    "`draws=True`": lambda m: fc.evaluate(m.model, m.circuit, m.task, draws=True),
    "`draws=10**9`": lambda m: fc.evaluate(m.model, m.circuit, m.task, draws=10**9),
    "a circuit and a task in the wrong order": lambda m: fc.evaluate(m.model, m.task, m.circuit),
    "a path as a circuit": lambda m: fc.evaluate(m.model, "circuit.safetensors", m.task),
    "a size that the ranking does not have": lambda m: fc.evaluate(m.model, m.circuit, m.task, sizes=[10_000]),
    "a circuit probed with no step": lambda m: fc.probe_outside(m.model, m.circuit, m.task, steps=0),
    "controls with an unknown rule": lambda m: fc.control_curves(m.model, m.circuit, m.task, select="best"),
    "controls that free no node": lambda m: fc.control_curves(m.model, m.circuit, m.task, budget=0),
    "constants for no node": lambda m: fc.optimal_constants(m.model, m.task, []),
    "a task and a model in the wrong order": lambda m: fc.node_effects(m.task, m.model),
    '`steps="5"`': lambda m: IntegratedGradients(steps="5"),
    "`steps=10**8`": lambda m: IntegratedGradients(steps=10**8),
    "`quadrature=5`": lambda m: IntegratedGradients(quadrature=5),
    "an option of another estimator": lambda m: fc.node_effects(m.model, m.task, "atp:steps=5"),
    "an unknown baseline": lambda m: fc.node_effects(m.model, m.task, "atp", baseline="median"),
    "`batch_size=0`": lambda m: fc.node_effects(m.model, m.task, "atp", batch_size=0),
    "one name for a list of nodes": lambda m: fc.edge_effects(m.model, m.task, "resid_1/3@0"),
    "a number among nodes": lambda m: fc.edge_effects(m.model, m.task, [3]),
    "a node to patch that the suite lacks": lambda m: fc.patch(m.model, m.task, ["mlp_1/3@0"]),
    "a circuit in place of effects": lambda m: fc.select(m.model, m.task, m.circuit),
    "an unknown selection rule": lambda m: fc.select(m.model, m.task, m.effects, "best"),
    "an unknown estimator to compare": lambda m: fc.agree(m.model, m.task, ["igg"]),
    "a task to export": lambda m: fc.export.gexf(m.task, "x.gexf"),
    "nothing to export": lambda m: fc.export.json(None, "x.json"),
    "one circuit to compare": lambda m: fc.compare({"a": m.circuit}),
    "circuits to compare without names": lambda m: fc.compare([m.circuit, m.circuit]),
    "an unknown way with places": lambda m: fc.compare({"a": m.circuit, "b": m.circuit}, places="mean"),
    "one site in place of a list": lambda m: m.model.only("resid_1"),
    "a site without a dictionary": lambda m: m.model.dictionaries["resid_9"],
    "an unknown site": lambda m: m.model.dictionaries["stream"],
    "a number in place of a site": lambda m: m.effects.features(3),
    "a path as a task whose words are replaced": lambda m: fc.symmetric_replacement("pairs.jsonl", None, []),
}

OTHERS: dict[str, Callable[[Any], Any]] = {
    "noise on the model's weights since the trace": noised,
    "one dictionary scaled since the trace": scaled,
    "a circuit of another suite": other_suite,
    "a circuit of other sites": lambda model: model.only(["resid_0", "resid_1", "resid_2"]),
}

IDS: dict[str, Any] = {
    "a token that the model does not have": ([[1, 2, VOCABULARY]], [[1, 3, 4]], [5], [6]),
    "an answer that the model does not have": ([[1, 2, 3]], [[1, 3, 4]], [50256], [6]),
    "a prompt longer than the model's positions": ([[1] * 65], [[2] * 65], [5], [6]),
    "a pair of the same token ids": ([[1, 2], [3, 4]], [[1, 5], [3, 4]], [6, 6], [7, 7]),
}


def called(call: Callable[[Made], object]) -> None:
    call(tiny())


def with_other(change: Callable[[Any], Any]) -> None:
    fc.evaluate(change(tiny().model), tiny().circuit, tiny().task)


def of_ids(ids: Any) -> None:
    fc.node_effects(tiny().model, fc.Task.from_tokens(*ids), "atp")


def of_another_tokenizer() -> None:
    Path("task.jsonl").write_text('{"prefix": "a b", "answer": " c"}', encoding="utf-8")
    task = fc.Task.from_jsonl("task.jsonl", words("<unk>", "c", "b", "a"))
    fc.node_effects(replace(tiny().model, tokenizer=words("<unk>", "a", "b", "c")), task, "atp", baseline="zero")


def of_a_random_model() -> None:
    fc.trace(tiny().model, random_task(4, keep_wrong=False), check_fit=False)


def of_random_dictionaries() -> None:
    fc.trace(tiny().model, tiny().task)


CASES = [
    *(Case(tried, partial(called, call)) for tried, call in CALLS.items()),
    *(Case(tried, partial(with_other, change)) for tried, change in OTHERS.items()),
    *(Case(tried, partial(of_ids, ids)) for tried, ids in IDS.items()),
    Case("a task of another tokenizer", of_another_tokenizer),
    Case("a model that does not show the behaviour", of_a_random_model),
    Case("dictionaries that explain nothing of the model", of_random_dictionaries),
    Case("a threshold that keeps nothing", lambda: called(lambda m: fc.trace(
        m.model, m.task, nodes="atp", keep_nodes="threshold=1e9", check_fit=False
    ))),
]  # fmt: skip
