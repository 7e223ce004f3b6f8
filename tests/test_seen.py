"""Whether a circuit is evaluated on what it was traced on, and whether its positions mean the same words."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit
from featcircuits.provenance import prompts as seen
from featcircuits.provenance.prompts import compared, prompts_of
from tests.tiny import random_task, spliced_model, tiny_model

THE, THAT, NEAR, A = 1, 2, 3, 4
"""Words of a sentence; nouns are numbers from 10."""


def sentences(*words: int | None, nouns: range, paired: bool = True, **options: Any) -> fc.Task:
    """A sentence for each noun, which stands where a word is None; the corrupted one has the noun plus 100."""
    prompts = [[noun if word is None else word for word in words] for noun in nouns]
    others = [[noun + 100 if word is None else word for word in words] for noun in nouns]
    return fc.Task.from_tokens(prompts, others if paired else None, [500] * len(nouns), [501] * len(nouns), **options)


def manifest(task: fc.Task) -> dict[str, Any]:
    """As it comes back from a file."""
    record = {"name": task.name, "n_examples": len(task), "aggregate": task.aggregate, "prompts": prompts_of(task)}
    return json.loads(json.dumps({"task": record}))


TRAINED = sentences(THE, None, THAT, THE, None, nouns=range(10, 20), name="train")


@pytest.mark.parametrize(
    ("task", "held_out", "n_seen", "note"),
    [
        (sentences(THE, None, THAT, THE, None, nouns=range(30, 40)), True, 0, "none of these 10 prompts was traced on"),
        (TRAINED, False, 10, "traced on these very prompts (train, 10 examples)"),
        (TRAINED.take(3), False, 3, "traced on these very prompts"),
        (TRAINED.with_options(examples=TRAINED.examples[::-1], metric="kl"), False, 10, "traced on these very prompts"),
        (TRAINED.with_options(padding_side="left", name="other"), False, 10, "traced on these very prompts"),
        (sentences(THE, None, THAT, THE, None, nouns=range(18, 28)), False, 2, "traced on 2 of these 10 prompts"),
        # the corrupted prompts of the pairs were run, too
        (sentences(THE, None, THAT, THE, None, nouns=range(110, 114)), False, 4, "traced on these very prompts"),
        (sentences(THE, None, THAT, THE, None, nouns=range(10, 12), paired=False), False, 2, "these very prompts"),
    ],
)
def test_what_was_traced_on_is_not_held_out(task: fc.Task, held_out: bool, n_seen: int, note: str) -> None:
    found = compared(manifest(TRAINED), task)
    assert (found.held_out, found.n_seen, len(found.notes)) == (held_out, n_seen, 1)
    assert note in found.notes[0]


@pytest.mark.parametrize("record", [{}, {"task": {"name": "x"}}, {"task": 3}])
def test_a_circuit_that_does_not_say_leaves_it_open(record: dict[str, Any]) -> None:
    found = compared(record, TRAINED)
    assert (found.held_out, found.n_seen) == (None, None)
    assert "unknown" in found.notes[0]


def test_of_very_many_prompts_a_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MOST_PROMPTS", 30)
    many = sentences(THE, None, nouns=range(10, 90), paired=False)
    record = manifest(many)
    assert len(record["task"]["prompts"]["hashes"]) == 30 * 8
    assert compared(record, many).n_seen == 30
    assert compared(record, many).held_out is False
    other = compared(record, sentences(THE, None, nouns=range(200, 210), paired=False))
    assert (other.held_out, other.n_seen) == (None, 0)
    assert "as far as its sample of prompts tells" in other.notes[0]


@pytest.mark.parametrize(
    ("words", "nouns", "note"),
    [
        ((THE, None, NEAR, THE, None), range(30, 40), "position 2 holds '3' instead of '2'"),
        (
            (None, THAT, THE, None, NEAR),
            range(30, 40),
            "position 0 holds '30' instead of '1', position 1 holds '2' instead of '10' and others, position 2",
        ),
        ((THE, None, THAT, THE, None, NEAR), range(30, 40), "prompts have 6 tokens instead of 5"),
        ((THE, None, THAT, THE), range(30, 40), "prompts have 4 tokens instead of 5"),
        ((A, THE, None, THAT, THE), range(30, 40), "position 0 holds '4' instead of '1'"),
        ((NEAR, A, NEAR, A, None), range(30, 32), "position 0 holds '3' instead of '1'"),  # also of two prompts
    ],
)
def test_other_sentences_are_told(words: tuple[int | None, ...], nouns: range, note: str) -> None:
    found = compared(manifest(TRAINED), sentences(*words, nouns=nouns))
    assert found.held_out is True
    assert found.notes[1].startswith("These sentences differ from those that the circuit was traced on: ")
    assert note in found.notes[1]


def test_words_that_are_new_here_and_were_many_there_are_told() -> None:
    """The traced prompts have several words at position 1; these all have one that is none of them."""
    found = compared(manifest(TRAINED), sentences(THE, NEAR, THAT, THE, None, nouns=range(30, 40)))
    assert "position 1 holds '3' instead of '10' and others" in found.notes[1]


@pytest.mark.parametrize("nouns", [range(30, 31), range(30, 33), range(30, 60)])
def test_the_same_sentences_with_other_nouns_are_no_others(nouns: range) -> None:
    """Also a few of them, which share a noun by chance."""
    assert len(compared(manifest(TRAINED), sentences(THE, None, THAT, THE, None, nouns=nouns)).notes) == 1
    few = manifest(sentences(THE, None, THAT, THE, None, nouns=range(10, 11), paired=False))
    assert len(compared(few, sentences(THE, None, THAT, THE, None, nouns=nouns)).notes) == 1


def test_other_sentences_are_told_where_positions_are_summed() -> None:
    """Sentences of another length are no others there."""
    task = TRAINED.with_options(aggregate="sum")
    held_out, note = compared(manifest(task), sentences(NEAR, None, A, nouns=range(30, 40), aggregate="sum")).notes
    assert held_out.startswith("Held out")
    assert "position 0 holds '3' instead of '1', position 2 holds '4' instead of '2'. Its nodes are sums" in note
    longer = sentences(THE, None, THAT, THE, None, NEAR, nouns=range(30, 40), aggregate="sum")
    assert len(compared(manifest(task), longer).notes) == 1


def test_other_sentences_are_told_where_nodes_are_at_roles() -> None:
    task = TRAINED.with_options(aggregate="role")
    others = sentences(THE, None, NEAR, THE, None, nouns=range(30, 40), aggregate="role")
    assert "position 2 holds '3' instead of '2'. Its nodes are at roles" in compared(manifest(task), others).notes[1]
    same = sentences(THE, None, THAT, THE, None, nouns=range(30, 40), aggregate="role")
    assert len(compared(manifest(task), same).notes) == 1


@pytest.mark.parametrize("name", ["agreement_rc", "agreement_nounpp", "agreement_simple", "greater_than", "ioi"])
@pytest.mark.parametrize("counts", [(400, 400), (64, 100), (8, 40), (40, 4)])
def test_held_out_files_of_the_shipped_suite_hold_the_same_sentences(name: str, counts: tuple[int, int]) -> None:
    model = _shipped()
    train, test = (_task(model, name, split, n) for split, n in zip(("train", "test"), counts, strict=True))
    found = compared(manifest(train), test)
    assert (found.held_out, len(found.notes)) == (True, 1)


@pytest.mark.parametrize(
    ("traced", "other", "note"),
    [
        ("agreement_nounpp", "agreement_within_rc", "holds 'that' instead of '"),
        ("agreement_within_rc", "agreement_nounpp", "instead of 'that'"),
        ("agreement_rc", "agreement_simple", "prompts have 2 tokens instead of 6"),
        ("agreement_rc", "ioi", "prompts have 14 tokens instead of 6"),
    ],
)
def test_other_files_of_the_shipped_suite_hold_others(traced: str, other: str, note: str) -> None:
    model = _shipped()
    found = compared(manifest(_task(model, traced, "train", 40)), _task(model, other, "test", 40), model.tokenizer)
    assert note in found.notes[1]


@cache
def _shipped() -> fc.SplicedModel:
    return fc.load(suite="grammar-4l", sites="embed")


def _task(model: fc.SplicedModel, name: str, split: str, count: int) -> fc.Task:
    return _whole(model, name, split).take(count)


@cache
def _whole(model: fc.SplicedModel, name: str, split: str) -> fc.Task:
    assert model.suite is not None
    return fc.Task.from_jsonl(model.suite.task_file(name, split), model.tokenizer)


def test_a_report_says_both() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_1"]), random_task(6, 4)
    circuit = fc.trace(spliced, task, nodes="atp", edges=None, check_fit=False).circuit
    own = fc.evaluate(spliced, circuit, task, sizes=())
    assert (own.held_out, own.n_seen) == (False, 6)
    assert own.to_json()["notes"][0].startswith("Not held out: the circuit was traced on these very prompts")
    record = json.loads(json.dumps(own.to_json()))["made_on"]
    assert (record["model"], record["suite"]) == (circuit.manifest["model"], circuit.manifest["suite"])
    assert record["task"]["sha256"] == circuit.manifest["task"]["sha256"]
    assert "prompts" not in record["task"]
    other = fc.evaluate(spliced, circuit, random_task(6, 4, seed=1), sizes=())
    assert (other.held_out, other.n_seen) == (True, 0)
    unknown = fc.evaluate(spliced, Circuit(circuit.nodes, {}, circuit.places, "none"), task, sizes=())
    assert (unknown.held_out, unknown.n_seen) == (None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"hashes": "?"}, {"hashes": 3}, {"words": 7}, {"words": [["a"], None, None]}, {"words": [[10**30]]},
        {"longest": "x"}, {"hashes": None},
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_message(change: dict[str, Any]) -> None:
    record = manifest(TRAINED)
    record["task"]["prompts"].update(change)
    with pytest.raises(fc.InputError, match=r"record of the prompts .* is damaged .*; trace it again"):
        compared(record, TRAINED)
