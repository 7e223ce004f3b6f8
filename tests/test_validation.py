"""Tests of circuits with p-values, and everything together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

import featcircuits as fc
from experiments.planted.motifs import MOTIFS, complete_and_superfluous
from featcircuits.cli import app
from featcircuits.validation import validate as whole
from featcircuits.validation.against_random import minimality, necessity, sufficiency
from featcircuits.validation.bench import Bench
from featcircuits.validation.claims import CANNOT_TELL, ENOUGH, NOT_ENOUGH, Claim, among, corrected, holm
from featcircuits.validation.matching import _two_one_sided, equivalence, independence, knock_outs
from tests.tiny import random_task, spliced_model, tiny_model, traced

_KS = 1.36 / np.sqrt(400)
"""The largest distance between 400 p-values and the uniform distribution, exceeded once in twenty."""


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_definition(p: list[float]) -> None:
    adjusted, order = holm(p), sorted(range(len(p)), key=lambda n: p[n])
    for turn, number in enumerate(order):
        expected = max(min(1.0, (len(p) - j) * p[order[j]]) for j in range(turn + 1))
        assert adjusted[number] == pytest.approx(expected)


def test_p_values_among_draws_are_uniform_under_the_null() -> None:
    generator = np.random.default_rng(0)
    values = [among(row[0], row[1:].tolist()) for row in generator.normal(size=(400, 100))]
    assert stats.kstest(values, "uniform").statistic < _KS + 0.01  # there are only 100 possible values


def test_equivalence_is_uniform_at_the_bound_and_sure_inside() -> None:
    generator = np.random.default_rng(1)
    values = [_two_one_sided(row + 0.1, 0.1) for row in generator.normal(size=(400, 40)) * 0.01]
    assert stats.kstest(values, "uniform").statistic < _KS
    assert _two_one_sided(generator.normal(size=40) * 0.01, 0.1) < 1e-6
    assert _two_one_sided(np.zeros(5), 0.1) == 0.0


def test_independence_is_uniform_where_nothing_is_left() -> None:
    generator, values = np.random.default_rng(2), []
    for seed, left in enumerate(generator.normal(size=(400, 30))):
        bench: Any = SimpleNamespace(ends=(None, left, np.zeros(30)), gap=1.0, seed=seed)
        values.append(independence(bench).p or 0.0)
    assert stats.kstest(values, "uniform").statistic < _KS


def _bench(motif: Any, circuit: fc.Circuit, ablation: str = "paired") -> Bench:
    pool = [*fc.node_effects(motif.spliced, motif.task, "exact").moving()]
    return Bench.of(motif.spliced, circuit, motif.task, pool, ablation, "as-circuit", 0, 0, None)


def test_the_one_superfluous_node_of_a_planted_circuit_is_named() -> None:
    motif, complete, more = complete_and_superfluous()
    found = minimality(_bench(motif, more), draws=60)
    assert {*found.superfluous} == {*more.nodes} - {*complete.nodes}
    assert found.claim.verdict == NOT_ENOUGH
    assert found.drops[found.superfluous[0]] == pytest.approx(0.0, abs=1e-9)


def test_a_planted_circuit_passes_and_half_of_it_fails() -> None:
    motif = MOTIFS["distractor"]
    bench = _bench(motif, motif.circuit)
    assert equivalence(bench).verdict == ENOUGH
    assert independence(bench).verdict == ENOUGH
    assert knock_outs(bench, 20).figure == pytest.approx(0.0, abs=1e-9)
    nodes = dict([*motif.circuit.nodes.items()][:1])
    part = replace(motif.circuit, nodes=nodes, edges={})
    assert equivalence(_bench(motif, part)).verdict == NOT_ENOUGH


def test_random_circuits_are_no_better_than_the_planted_one() -> None:
    motif = MOTIFS["relay"]
    bench = _bench(motif, motif.circuit)
    for claim in (sufficiency(bench, 39), necessity(bench, 39)):
        assert claim.least == pytest.approx(1 / 40)
        assert 1 / 40 <= (claim.p or 0.0) <= 1
    assert sufficiency(bench, 39) == sufficiency(bench, 39)


def test_few_draws_cannot_tell() -> None:
    claim = Claim("a", 1.0, None, "", "null", p=1 / 6, least=1 / 6)
    assert corrected([claim])[0].verdict == CANNOT_TELL
    small = Claim("b", 1.0, None, "", "null", p=0.001, least=0.001)
    verdicts = [each.verdict for each in corrected([small, Claim("c", 1.0, None, "", "null", p=0.4, least=0.001)])]
    assert verdicts == [ENOUGH, NOT_ENOUGH]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 2), ("STARTS", 2), ("SAMPLES", 3), ("CONSTANT_STEPS", 2)):
        monkeypatch.setattr(whole, name, value)


@pytest.mark.usefixtures("quick")
def test_everything_together_resumes_and_repeats() -> None:
    model, folder = fc.load(), "saes/grammar-4l/tasks"
    train, test = (
        fc.Task.from_jsonl(f"{folder}/agreement_simple_{part}.jsonl", model.tokenizer).take(12)
        for part in ("train", "test")
    )
    result = fc.trace(model, train, keep_nodes="top=30", start_layer=2)
    kept: dict[str, Any] = {}
    seconds: list[float] = []
    options: dict[str, Any] = {"train": train, "ranking": result.ranking, "start_layer": 2, "draws": 9}
    found = fc.validate(model, result.circuit, test, **options, kept=kept, announce=seconds.append)
    assert seconds[0] > 0
    assert {"curve mean", "curve paired", "outside mean", "curve constants", "nonsense", "edges paired"} < {
        *found.parts
    }
    assert {each.verdict for each in found.claims} <= {ENOUGH, NOT_ENOUGH, CANNOT_TELL}
    text = json.dumps(found.to_json(), allow_nan=False)
    del kept["sufficiency"]
    again = fc.validate(model, result.circuit, test, **options, kept=kept, announce=seconds.append)
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert seconds[1] < seconds[0]


def test_a_task_without_the_behaviour_gets_no_verdict() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(4)
    circuit = traced(spliced, task, edges=None, keep_nodes="top=10")
    nodes = list(fc.node_effects(spliced, task, keep_examples=False).moving())
    swapped = task.part([replace(e, clean_answers=e.corrupted_answers, corrupted_answers=e.clean_answers)
                         for e in task.examples])  # fmt: skip
    found = [
        fc.validate(spliced, circuit, each, train=task, ranking=nodes, check=False, draws=1, ablations=["zero"])
        for each in (task, swapped)
    ]
    # F(model) - F(empty) has the other sign in one of the two
    assert any(each.invalid and not each.claims for each in found)
    with pytest.raises(fc.InputError, match="draws is 0"):
        fc.validate(spliced, circuit, task, train=task, ranking=nodes, check=False, draws=0)
    with pytest.raises(fc.InputError, match="no node in the pool"):
        fc.validate(spliced, circuit, task, train=task, ranking=circuit, check=False)


@pytest.mark.usefixtures("quick")
def test_prompts_of_another_form_leave_the_constants_out() -> None:
    model, folder = fc.load(sites="resid"), "saes/grammar-4l/tasks"
    train = fc.Task.from_jsonl(f"{folder}/agreement_simple_train.jsonl", model.tokenizer, aggregate="sum").take(8)
    test = fc.Task.from_jsonl(f"{folder}/agreement_rc_test.jsonl", model.tokenizer, aggregate="sum").take(6)
    result = fc.trace(model, train, keep_nodes="top=10", edges=None, start_layer=2)
    found = fc.validate(
        model, result.circuit, test, train=train, ranking=result.ranking, start_layer=2, draws=1, ablations=["paired"]
    )
    (left,) = [each for each in found.claims if each.name == "faithful, constants"]
    assert left.verdict == CANNOT_TELL
    assert "learned at 2 places" in left.reason


@pytest.mark.usefixtures("quick")
def test_the_command_line_writes_the_verdicts(tmp_path: Path) -> None:
    runner, run = CliRunner(), tmp_path / "run"
    trace = ["trace", "--task", "agreement_simple", "--limit", "10", "--keep-nodes", "top=20", "--start-layer", "2"]
    assert runner.invoke(app, [*trace, "-o", str(run)]).exit_code == 0
    done = runner.invoke(app, ["evaluate", str(run), "--full", "--limit", "8"])
    assert done.exit_code == 0, done.output
    assert "What speaks for and against the circuit" in done.output
    found = json.loads((run / "validation.json").read_text())
    assert found["n_examples"] == 8
    assert (run / "validation.png").read_bytes()[:4] == b"\x89PNG"
    assert not (run / "validation.parts.json").exists()
    again = runner.invoke(app, ["evaluate", str(run), "--full", "--limit", "8"])
    assert again.exit_code != 0
    assert "validation.json" in again.output
