"""What the model does on a task: counted by hand, and refused where it is too little."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.circuit.circuit import NodeScore
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.behaviour import AMONG, LEAST_RIGHT, Behaviour, only_right, require_behaviour, right_answers
from featcircuits.tasks.examples import Example
from tests.tiny import random_task, spliced_model, tiny_model

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "saes" / "grammar-4l"
SHARED = ROOT.parent / "shared"
TASKS = sorted(path.name for path in (SUITE / "tasks").glob("*.jsonl"))


@pytest.fixture(scope="module")
def shipped() -> SplicedModel:
    return fc.load()


@pytest.fixture(scope="module")
def agreement(shipped: SplicedModel) -> fc.Task:
    return fc.Task.from_jsonl(SUITE / "tasks" / "agreement_rc_train.jsonl", shipped.tokenizer).take(12)


def swapped(example: Example) -> Example:
    return replace(example, clean_answers=example.corrupted_answers, corrupted_answers=example.clean_answers)


def with_swapped(task: fc.Task, count: int) -> fc.Task:
    """The first `count` examples have their answers swapped."""
    return replace(task, examples=(*map(swapped, task.examples[:count]), *task.examples[count:]))


# what is counted


@pytest.mark.parametrize("name", TASKS)
def test_the_shipped_tasks_are_done(shipped: SplicedModel, name: str) -> None:
    found = fc.behaviour_of(shipped, fc.Task.from_jsonl(SUITE / "tasks" / name, shipped.tokenizer).take(40))
    assert found.share_right >= 0.97
    assert sum(found.unknown) == 0
    found.check()


@pytest.mark.parametrize("metric", ["logit_difference", "log_probability", "probability_difference", "kl"])
def test_both_sides_are_counted_by_hand(shipped: SplicedModel, agreement: fc.Task, metric: str) -> None:
    task = with_swapped(agreement.take(4), 1).with_options(metric=metric)
    found = fc.behaviour_of(shipped, task, batch_size=3)
    assert found.right_clean == found.right_corrupted == found.right == (False, True, True, True)
    assert found.share_right == 0.75
    assert found.first_difference == (1, 1, 1, 1)
    effects = fc.node_effects(shipped, task, "atp")
    torch.testing.assert_close(torch.tensor(found.F_clean), -effects.metric_clean, rtol=1e-4, atol=1e-4)
    assert effects.metric_corrupted is not None
    torch.testing.assert_close(torch.tensor(found.F_corrupted), -effects.metric_corrupted, rtol=1e-4, atol=1e-4)


def test_single_prompts_are_right_among_the_likeliest(shipped: SplicedModel, agreement: fc.Task) -> None:
    logits = shipped.run(agreement.take(1).batch([0]).clean, answers_only=True)[0]
    order = logits.argsort(descending=True).tolist()
    examples = tuple(Example(agreement.examples[0].clean, None, (order[n],)) for n in (0, AMONG - 1, AMONG))
    found = fc.behaviour_of(shipped, fc.Task(examples, metric="log_probability"))
    assert found.right == (True, True, False)
    assert (found.F_corrupted, found.right_corrupted, found.first_difference, found.paired) == ((), (), (), False)


def test_pairs_without_wrong_answers_have_to_fall(shipped: SplicedModel, agreement: fc.Task) -> None:
    examples = [replace(example, corrupted_answers=()) for example in agreement.take(2).examples]
    first = examples[0]
    examples[0] = replace(first, clean=first.corrupted or (), corrupted=first.clean)
    found = fc.behaviour_of(shipped, fc.Task(tuple(examples), metric="log_probability"))
    assert found.right_corrupted == (False, True)


def test_answers_of_sets_are_judged_by_their_best() -> None:
    logits = torch.tensor([[0.0, 5.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0], [0.0, 4.0, 4.0, 0.0]])
    right = right_answers(logits, torch.tensor([[0, 1], [0, 1], [1, -1]]), torch.tensor([[2, 3], [2, 3], [2, -1]]))
    assert right.tolist() == [True, False, False]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_both_sides_have_to_be_right(sides: list[tuple[bool, bool]]) -> None:
    clean, corrupted = (tuple(side[n] for side in sides) for n in (0, 1))
    F = (0.0,) * len(sides)
    found = Behaviour("task", "logit_difference", F, F, clean, corrupted, (0,) * len(sides), (0,) * len(sides))
    both = sum(a and b for a, b in sides)
    assert found.share_right == pytest.approx(both / len(sides))
    if both < LEAST_RIGHT * len(sides):
        with pytest.raises(fc.InputError, match=f"answers {both} of {len(sides)} pairs right on both sides"):
            found.check()
    else:
        found.check()


def test_unknown_words_are_counted(shipped: SplicedModel, tmp_path: Path) -> None:
    rows = [
        {"clean_prefix": "The zorp author", "patch_prefix": "The zorp authors"},
        {"clean_prefix": "The author", "patch_prefix": "The authors"},
    ]
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(json.dumps({**row, "clean_answer": " is", "patch_answer": " are"}) for row in rows))
    with pytest.warns(UserWarning, match=r"in 1 of 2 lines, the first of them line 1, .* does not know \('zorp'\)"):
        task = fc.Task.from_jsonl(path, shipped.tokenizer, aggregate="sum")
    assert fc.behaviour_of(shipped, task).unknown == (2, 0)


def test_the_record_is_plain_data(shipped: SplicedModel, agreement: fc.Task) -> None:
    record = json.loads(json.dumps(fc.behaviour_of(shipped, agreement).to_json(), allow_nan=False))
    assert (record["n_examples"], record["share_right"], record["n_unknown"]) == (12, 1.0, 0)
    assert record["mean_F_clean"] == pytest.approx(sum(record["F_clean"]) / 12)
    assert record["mean_F_corrupted"] < 0


# what is refused

RUNS: dict[str, Callable[[SplicedModel, fc.Task], Any]] = {
    "trace": lambda model, task: fc.trace(model, task, nodes="atp", edges=None, check_fit=False),
    "agree": lambda model, task: fc.agree(model, task, ["atp"], bases=["whole"], edge_nodes=0),
    "evaluate": lambda model, task: fc.evaluate(
        model,
        fc.Circuit({fc.Node(model.sites[-1], 0, 0): NodeScore(1.0)}, {}, task.places, task.aggregate),
        task,
        sizes=(),
    ),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("wrong", [6, 12], ids=["half wrong", "swapped"])
def test_a_task_that_is_not_done_is_refused_from_python(
    shipped: SplicedModel, agreement: fc.Task, run: str, wrong: int
) -> None:
    task, few = with_swapped(agreement, wrong), shipped.only(shipped.sites[-1:])
    with pytest.raises(fc.InputError) as caught:
        RUNS[run](few, task)
    message = str(caught.value)
    assert f"the model answers {12 - wrong} of 12 pairs right on both sides" in message
    assert ("Are the answers swapped?" in message) == (wrong == 12)
    assert ("--only-right" in message) == (wrong < 12)  # it would leave nothing
    assert "--keep-wrong" in message
    RUNS[run](few, task.with_options(keep_wrong=True))


@pytest.mark.parametrize("run", RUNS)
def test_a_random_model_is_refused(run: str) -> None:
    spliced = spliced_model(tiny_model("gpt2", dtype=torch.float32), sites=["resid_2"])
    task = random_task(8, keep_wrong=False)
    assert fc.behaviour_of(spliced, task).share_right < LEAST_RIGHT
    with pytest.raises(fc.InputError, match="pairs right on both sides"):
        RUNS[run](spliced, task)
    RUNS[run](spliced, task.with_options(keep_wrong=True))


def test_single_prompts_of_a_random_model_are_refused(shipped: SplicedModel, agreement: fc.Task) -> None:
    examples = tuple(Example(e.clean, None, (7 + n,)) for n, e in enumerate(agreement.examples))
    with pytest.raises(fc.InputError, match="of 12 prompts right, and a circuit needs 60%"):
        require_behaviour(shipped, fc.Task(examples, metric="log_probability"))


def test_a_metric_that_reads_no_answers_judges_none(shipped: SplicedModel, agreement: fc.Task) -> None:
    require_behaviour(shipped, with_swapped(agreement, 12).with_options(metric="kl"))


def test_only_the_right_examples_are_kept(shipped: SplicedModel, agreement: fc.Task) -> None:
    task = with_swapped(agreement, 5)
    kept = only_right(task, fc.behaviour_of(shipped, task))
    assert kept.examples == agreement.examples[5:]
    assert kept.places == task.places
    none = with_swapped(agreement, 12)
    with pytest.raises(fc.InputError, match="answers none of 12 examples right.*Are the answers swapped"):
        only_right(none, fc.behaviour_of(shipped, none))


# real models


@pytest.mark.stories
@pytest.mark.skipif(not (SHARED / "models" / "stories260K").is_dir(), reason="stories260K is not here")
@pytest.mark.parametrize("split", ["train", "test"])
def test_pairs_of_a_real_model_are_done(split: str) -> None:
    from featcircuits.loading.load import load_bare

    bare = load_bare(SHARED / "models" / "stories260K")
    task = fc.Task.from_jsonl(
        SHARED / "data" / "stories260K" / f"gender_{split}.jsonl", bare.tokenizer, aggregate="sum"
    )
    found = fc.behaviour_of(bare, task)
    assert found.share_right == 1.0
    assert {example.clean[0] for example in task.examples} == {bare.tokenizer.bos_token_id}


# held out


def keys(task: fc.Task) -> set[tuple[int, ...]]:
    return {prompt for e in task.examples for prompt in (e.clean, e.corrupted) if prompt is not None}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_a_split_is_seeded_and_of_the_right_size(agreement: fc.Task, share: float) -> None:
    rest, held = agreement.split(share, seed=3)
    assert len(rest) + len(held) == len(agreement)
    assert len(held) == round(share * len(agreement))
    assert set(rest.examples) | set(held.examples) == set(agreement.examples)
    again = agreement.split(share, seed=3)
    assert (again[0].examples, again[1].examples) == (rest.examples, held.examples)
    others = {agreement.split(0.5, seed=seed)[1].examples for seed in range(5)}
    assert len(others) > 1
    assert rest.places == held.places == agreement.places
    assert (rest.name, held.name) == ("agreement_rc_train", "agreement_rc_train (held out)")


prompts = st.lists(st.integers(0, 2), min_size=2, max_size=3).map(tuple)


@settings(deadline=None)
@given(
    pairs=st.lists(st.tuples(prompts, prompts), min_size=2, max_size=12),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
def test_no_prompt_is_in_both_parts(pairs: list[Any], share: float, seed: int) -> None:
    examples = tuple(Example(a, b, (3,), (4,)) for a, b in pairs if a != b and len(a) == len(b))
    if not examples:
        return
    task = fc.Task(examples, aggregate="sum")
    graph = nx.Graph((e.clean, e.corrupted) for e in examples)
    if nx.number_connected_components(graph) == 1:
        with pytest.raises(fc.InputError, match="cannot be split"):
            task.split(share, seed)
        return
    rest, held = task.split(share, seed)
    assert not keys(rest) & keys(held)
    assert Counter(rest.examples + held.examples) == Counter(examples)
    assert len(rest) > 0
    assert len(held) > 0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_shares_that_part_nothing_are_refused(agreement: fc.Task, share: float) -> None:
    with pytest.raises(fc.InputError, match="it must be above 0 and below 1"):
        agreement.split(share)


def test_pairs_in_both_directions_are_one_group() -> None:
    pair = Example((1, 2), (1, 3), (4,), (5,))
    twin = Example((1, 3), (1, 2), (5,), (4,))
    with pytest.raises(fc.InputError, match="2 examples cannot be split so that no prompt is in both"):
        fc.Task((pair, twin)).split(0.5)
