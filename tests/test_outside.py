"""The outside of a circuit, ablated in part; constants; the nonsense control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import featcircuits as fc
from experiments.planted.motifs import complete_and_superfluous, weak_circuit
from featcircuits.evaluation.ablated import AblatedModel, circuit_subgraph
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.evaluation.faithfulness import Reference
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.validation.outside import Cube
from tests.tiny import random_task, spliced_model, tiny_model, traced


@pytest.fixture(scope="module")
def tiny() -> tuple[SplicedModel, fc.Task, fc.Circuit]:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(4)
    return spliced, task, traced(spliced, task, edges=None, keep_nodes="top=40")


@pytest.mark.parametrize("ablation", ["mean", "zero", "paired"])
@pytest.mark.parametrize("error_nodes", ["as-circuit", "keep", "remove"])
def test_the_corners_of_the_cube_are_circuit_and_model(tiny: Any, ablation: str, error_nodes: str) -> None:
    spliced, task, circuit = tiny
    ablated = AblatedModel(spliced, prepared_ablation(ablation, spliced, task, 4, 0), error_nodes)
    own = circuit_subgraph(spliced, circuit, task.places)
    cube = Cube.of(ablated, task, own)
    none = cube.at({site: torch.zeros_like(mask) for site, mask in cube.inside.items()})
    every = cube.at({site: torch.ones_like(mask) for site, mask in cube.inside.items()})
    torch.testing.assert_close(cube.metric(none), ablated.metric(task, [own])[0])
    everything = replace(own, size=0, complement=True)
    torch.testing.assert_close(cube.metric(every), ablated.metric(task, [everything])[0])


def test_the_slope_is_that_of_small_steps(tiny: Any) -> None:
    spliced, task, circuit = tiny
    ablated = AblatedModel(spliced, prepared_ablation("mean", spliced, task, 4, 0))
    cube = Cube.of(ablated, task, circuit_subgraph(spliced, circuit, task.places))
    masks = cube.random(torch.Generator().manual_seed(0))
    F, slopes = cube.slope(masks)
    assert pytest.approx(float(cube.metric(masks).mean())) == F
    site = fc.Site.parse("mlp_1")
    direction = torch.randn(masks[site].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = [float(cube.metric({**masks, site: masks[site] + step * direction}).mean()) for step in (1e-5, -1e-5)]
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((slopes[site] * direction).sum()), rel=1e-4)


def test_an_adversary_finds_a_planted_weakness_and_nothing_on_a_complete_circuit() -> None:
    motif, weak = weak_circuit()
    options: dict[str, Any] = {"ablation": "paired", "draws": 20}
    found = fc.probe_outside(motif.spliced, weak, motif.task, **options)
    assert found.ablated == pytest.approx(1.0)
    assert found.worst is not None
    assert abs(1 - found.worst) > 0.2
    motif, complete, _ = complete_and_superfluous()
    found = fc.probe_outside(motif.spliced, complete, motif.task, **options)
    assert found.lowest is not None
    assert found.highest is not None
    for value in (found.ablated, found.mean, found.low, found.lowest.faithfulness, found.highest.faithfulness):
        assert value == pytest.approx(1.0, abs=1e-9)


def test_a_full_circuit_has_no_outside_and_an_empty_one_only_outside(tiny: Any) -> None:
    spliced, task, circuit = tiny
    every = traced(spliced, task, edges=None, keep_nodes="threshold=0")
    found = fc.probe_outside(spliced, circuit, task, draws=3, steps=2, check=False)
    assert found.invalid is None or found.worst is None
    ablated = AblatedModel(spliced, prepared_ablation("paired", spliced, task, 4, 0))
    inside = ablated.metric(task, [circuit_subgraph(spliced, every, task.places)])[0]
    cube = Cube.of(ablated, task, circuit_subgraph(spliced, every, task.places))
    torch.testing.assert_close(cube.metric(cube.random(torch.Generator().manual_seed(0))), inside)


def test_a_search_is_repeatable_and_a_budget_restores_no_more() -> None:
    motif, weak = weak_circuit()
    one, two = (fc.probe_outside(motif.spliced, weak, motif.task, ablation="paired", seed=3, draws=5) for _ in range(2))
    assert one == two
    few = fc.probe_outside(motif.spliced, weak, motif.task, ablation="paired", budget=1, draws=5)
    assert few.free == 1
    assert one.free > 1
    assert one.worst is not None
    assert few.worst is not None
    assert abs(1 - few.worst) <= abs(1 - one.worst) + 1e-9


def test_constants_keep_more_than_means_and_are_judged_elsewhere() -> None:
    model, folder = fc.load(), "saes/grammar-4l/tasks"
    train, test = (
        fc.Task.from_jsonl(f"{folder}/agreement_simple_{part}.jsonl", model.tokenizer).take(count)
        for part, count in (("train", 24), ("test", 40))
    )
    effects = fc.node_effects(model, train, keep_examples=False)
    order = fc.select(model, train, effects)[:200]
    constants = fc.optimal_constants(model, train, order, steps=25, rate=0.004)
    again = fc.optimal_constants(model, train, order, steps=25, rate=0.004)
    assert constants.losses == again.losses
    assert constants.losses[1] < constants.losses[0]
    circuit = fc.trace(model, train, edges=None, keep_nodes="top=40").circuit
    charitable, mean = (fc.evaluate(model, circuit, test, ablation=each, sizes=()) for each in (constants, "mean"))
    assert charitable.invalid is None
    assert mean.faithfulness < charitable.faithfulness < 1.1
    other = fc.Task.from_jsonl(f"{folder}/agreement_rc_test.jsonl", model.tokenizer).take(4)
    with pytest.raises(fc.InputError, match="learned at .* places"):
        fc.evaluate(model, circuit, other, ablation=constants, sizes=())


def test_a_nonsense_task_exchanges_half_of_the_answers() -> None:
    task = random_task(11)
    found = fc.nonsense_task(task, seed=1)
    exchanged = [a.clean_answers == b.corrupted_answers for a, b in zip(task.examples, found.examples, strict=True)]
    assert sum(exchanged) in (5, 6)
    assert found == fc.nonsense_task(task, seed=1)
    assert found != fc.nonsense_task(task, seed=2)
    assert [each.clean for each in found.examples] == [each.clean for each in task.examples]
    with pytest.raises(fc.InputError, match="no wrong answer"):
        fc.nonsense_task(fc.Task.from_tokens([[1, 2]], None, [3], metric="log_probability"))


def test_by_effect_nonsense_gains_as_little_as_random_circuits() -> None:
    model, folder = fc.load(), "saes/grammar-4l/tasks"
    read = [
        fc.Task.from_jsonl(f"{folder}/agreement_simple_{part}.jsonl", model.tokenizer) for part in ("train", "test")
    ]
    train, test = fc.nonsense_task(read[0].take(40)), fc.nonsense_task(read[1].take(100))
    circuit = fc.trace(model, train, edges=None, keep_nodes="top=150").circuit
    report = fc.evaluate(model, circuit, test, ablation="paired", sizes=())
    real = Reference(4.99, -4.98)  # of the task itself; the page on selection rules has it
    assert abs(report.F_circuit - report.F_empty) < 0.1 * (real.model - real.empty)


def test_bad_requests_are_refused(tiny: Any) -> None:
    spliced, task, circuit = tiny
    for options, message in (
        ({"draws": 0}, "draws is 0"), ({"steps": 0}, "steps is 0"), ({"budget": 0}, "budget is 0"),
        ({"ablation": "none"}, "unknown ablation"), ({"start_layer": 9}, "start_layer is 9"),
    ):  # fmt: skip
        given: dict[str, Any] = options
        with pytest.raises(fc.InputError, match=message):
            fc.probe_outside(spliced, circuit, task, **given)
    with pytest.raises(fc.InputError, match="holds no node"):
        fc.optimal_constants(spliced, task, [])
