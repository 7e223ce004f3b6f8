"""Task files, token tasks, padding and metrics: what is read, what is refused, and what is computed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoTokenizer

import featcircuits as fc
from featcircuits.inputs.names import OTHER
from featcircuits.model.tokens import Tokens
from featcircuits.tasks.examples import Example, Span
from featcircuits.tasks.metrics import Answers
from featcircuits.tasks.table import METRICS

MODEL = Path(__file__).parents[1] / "saes" / "grammar-4l" / "model"
PAIR = {"clean_prefix": "The author", "patch_prefix": "The authors", "clean_answer": " is", "patch_answer": " are"}
SINGLE = {"prefix": "The author", "answer": " is"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token a word; spaces belong to no token; unknown words are `<unk>`."""
    return AutoTokenizer.from_pretrained(MODEL)


def words(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Ids looked up word by word, without the package's own tokenising."""
    ids = tuple(tokenizer.convert_tokens_to_ids(word) for word in text.split())
    assert tokenizer.unk_token_id not in ids
    return ids


def written(folder: Path, *rows: Any) -> Path:
    """A task file; a string is written as it stands, anything else as JSON."""
    path = folder / "examples.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def refusal(path: Path, tokenizer: Any, **options: Any) -> str:
    with pytest.raises(fc.InputError) as caught:
        fc.Task.from_jsonl(path, tokenizer, **options)
    return str(caught.value)


# reading


def test_the_published_pairs_read(tmp_path: Path, tokenizer: Any) -> None:
    second = {**PAIR, "clean_prefix": "The cats", "patch_prefix": "The cat", "case": "plural"}
    second |= {"clean_answer": " are", "patch_answer": " is"}
    task = fc.Task.from_jsonl(written(tmp_path, PAIR, second), tokenizer)
    assert task.examples == (
        Example(*(words(tokenizer, text) for text in ("The author", "The authors", "is", "are"))),
        Example(*(words(tokenizer, text) for text in ("The cats", "The cat", "are", "is"))),
    )
    assert (task.paired, task.metric, task.name, len(task)) == (True, "logit_difference", "examples", 2)
    assert task.pad_id == tokenizer.pad_token_id


def test_single_prompts_read_and_are_judged_by_log_probability(tmp_path: Path, tokenizer: Any) -> None:
    task = fc.Task.from_jsonl(written(tmp_path, SINGLE), tokenizer)
    assert task.examples == (Example(words(tokenizer, "The author"), None, words(tokenizer, "is")),)
    assert not task.paired
    assert task.metric == "log_probability"
    assert task.batch([0]).corrupted is None


def test_a_wrong_answer_makes_single_prompts_a_logit_difference(tmp_path: Path, tokenizer: Any) -> None:
    task = fc.Task.from_jsonl(written(tmp_path, {**SINGLE, "wrong_answer": [" are", " were"]}), tokenizer)
    assert task.metric == "logit_difference"
    assert task.examples[0].corrupted_answers == words(tokenizer, "are were")


def test_options_given_by_hand_win_over_the_files(tmp_path: Path, tokenizer: Any) -> None:
    task = fc.Task.from_jsonl(written(tmp_path, SINGLE), tokenizer, metric="probability", name="mine", aggregate="sum")
    assert (task.metric, task.name, task.aggregate) == ("probability", "mine", "sum")


def test_blank_lines_are_passed_over(tmp_path: Path, tokenizer: Any) -> None:
    assert len(fc.Task.from_jsonl(written(tmp_path, "", PAIR, "   ", PAIR), tokenizer)) == 2


def test_sets_of_answers_lose_their_repetitions_and_keep_their_order(tmp_path: Path, tokenizer: Any) -> None:
    row = {**PAIR, "clean_answer": [" is", " was", " is"], "patch_answer": [" are"]}
    (example,) = fc.Task.from_jsonl(written(tmp_path, row), tokenizer).examples
    assert example.clean_answers == words(tokenizer, "is was")
    assert example.corrupted_answers == words(tokenizer, "are")


class Characters:
    """One token a character, but "ab" is a single one: an answer's tokens depend on its prefix.

    Like Llama's tokenizer it begins a text with a token of its own, and like T5's it ends it with one.
    """

    pad_token_id, bos_token_id, eos_token_id, unk_token_id, is_fast = None, 1, 2, None, False

    def __init__(self, ends: bool = False) -> None:
        self.ends = ends

    def __call__(self, text: str | list[str], add_special_tokens: bool = True) -> dict[str, Any]:
        if isinstance(text, list):
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        ids = [*map(ord, text.replace("ab", "\x03"))]
        return {"input_ids": [1, *ids, *([2] if self.ends else [])] if add_special_tokens else ids}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [chr(number) for number in ids]


@pytest.mark.parametrize("ends", [False, True])
def test_answers_are_what_they_add_to_their_prefix(tmp_path: Path, ends: bool) -> None:
    """Neither the begin-of-text token nor an end-of-text token counts as an answer."""
    row = {"prefix": "xy", "answer": "ab", "wrong_answer": "b"}
    (example,) = fc.Task.from_jsonl(written(tmp_path, row), Characters(ends)).examples
    assert (example.clean_answers, example.corrupted_answers) == ((3,), (ord("b"),))
    assert example.clean[:3] == (1, ord("x"), ord("y"))


def test_an_answer_that_melts_into_its_prefix_is_refused(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, {"prefix": "xa", "answer": "b"}), Characters())
    assert "line 1" in message
    assert "'answer': 'b' merges with the end of its prefix" in message


def test_padding_falls_back_to_the_end_token(tmp_path: Path) -> None:
    assert fc.Task.from_jsonl(written(tmp_path, {"prefix": "x", "answer": "y"}), Characters()).pad_id == 2


def test_roles_by_text_and_by_characters(tmp_path: Path, tokenizer: Any) -> None:
    row = {
        "prefix": "The author above the doctor",
        "answer": " is",
        "roles": {"subject": "author", "place": "above the", "noun": [21, 27]},
    }
    (example,) = fc.Task.from_jsonl(written(tmp_path, row), tokenizer).examples
    assert example.roles == (("subject", Span(1, 2)), ("place", Span(2, 4)), ("noun", Span(4, 5)))


def test_a_role_takes_every_token_it_touches(tmp_path: Path, tokenizer: Any) -> None:
    """A span that starts inside a word covers the whole word; a space before a word covers no token more."""
    row = {"prefix": "The author above", "answer": " the", "roles": {"half": [6, 11], "space": [10, 13]}}
    (example,) = fc.Task.from_jsonl(written(tmp_path, row), tokenizer).examples
    assert example.roles == (("half", Span(1, 2)), ("space", Span(2, 3)))


# refusals of files

REFUSED = {
    "malformed": ('{"clean_prefix": "The', ["not valid JSON", "column"]),
    "not an object": ([1, 2], ["must be a JSON object", "list"]),
    "unknown field": ({**PAIR, "answr": " is"}, ["unknown field 'answr'", "patch_answer"]),
    "missing field": ({key: PAIR[key] for key in PAIR if key != "patch_answer"}, ["'patch_answer' is missing"]),
    "no field at all": ({}, ["'prefix' is missing", "clean_prefix"]),
    "empty prefix": ({**PAIR, "patch_prefix": ""}, ["'patch_prefix'", "non-empty string", "''"]),
    "prefix of another type": ({**SINGLE, "prefix": 3}, ["'prefix'", "found 3"]),
    "two tokens": ({**PAIR, "clean_answer": " is not"}, ["'clean_answer'", "' is not' is 2 tokens", "['is', 'not']"]),
    "no token": ({**SINGLE, "answer": " "}, ["'answer'", "' ' is 0 tokens"]),
    "unknown word": ({**SINGLE, "answer": " zebra"}, ["' zebra' is not in the tokenizer's vocabulary"]),
    "one bad answer of a set": ({**SINGLE, "answer": [" is", " is not"]}, ["' is not' is 2 tokens"]),
    "empty set": ({**PAIR, "patch_answer": []}, ["'patch_answer'", "found []"]),
    "answer of another type": ({**PAIR, "patch_answer": 7}, ["'patch_answer'", "found 7"]),
    "role not found": ({**SINGLE, "roles": {"verb": "runs"}}, ["role 'verb'", "'runs' occurs 0 times", "[start, end)"]),
    "role found twice": (
        {"prefix": "the cat the dog", "answer": " is", "roles": {"article": "the"}},
        ["role 'article'", "'the' occurs 2 times"],
    ),
    "role beyond the text": ({**SINGLE, "roles": {"subject": [4, 99]}}, ["role 'subject'", "[4, 99]", "10 characters"]),
    "role of nothing": ({**SINGLE, "roles": {"gap": [3, 4]}}, ["role 'gap'", "3 to 4 hold no token"]),
    "role backwards": ({**SINGLE, "roles": {"subject": [5, 4]}}, ["role 'subject'", "[5, 4]"]),
    "overlapping roles": (
        {**SINGLE, "roles": {"all": "The author", "subject": "author"}},
        ["role 'subject' overlaps another role"],
    ),
    "roles as a list": ({**SINGLE, "roles": ["author"]}, ["'roles' must be an object", "['author']"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_line_is_refused_by_file_line_and_value(tmp_path: Path, tokenizer: Any, case: str) -> None:
    """The good line and the blank one before it show that the number is the file's, not the example's."""
    row, parts = REFUSED[case]
    good = PAIR if isinstance(row, dict) and "clean_prefix" in row else SINGLE
    path = written(tmp_path, good, "", row)
    message = refusal(path, tokenizer)
    assert message.startswith(f"{path}, line 3: ")
    for part in parts:
        assert part in message


def test_missing_and_empty_files_are_named(tmp_path: Path, tokenizer: Any) -> None:
    missing = tmp_path / "nowhere.jsonl"
    assert refusal(missing, tokenizer) == f"{missing}: no such task file"
    empty = written(tmp_path, "", " ")
    assert refusal(empty, tokenizer) == f"{empty}: the file holds no examples"


def test_a_file_that_is_not_text_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_bytes(b'{"prefix": "caf\xe9 "}')
    message = refusal(path, tokenizer)
    assert f"{path}: not UTF-8 text" in message
    assert "byte 15" in message


def test_paired_and_single_prompts_do_not_mix(tmp_path: Path, tokenizer: Any) -> None:
    path = written(tmp_path, PAIR, SINGLE)
    message = refusal(path, tokenizer)
    assert str(path) in message
    assert "mixed" in message


def test_pairs_of_unequal_length_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    message = refusal(written(tmp_path, PAIR, {**PAIR, "patch_prefix": "The young authors"}), tokenizer)
    assert "examples.jsonl, line 2" in message
    assert "clean prompt has 2 tokens, the corrupted one 3" in message


def test_an_answer_that_is_both_right_and_wrong_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    message = refusal(written(tmp_path, {**PAIR, "patch_answer": [" are", " is"]}), tokenizer)
    (shared,) = words(tokenizer, "is")
    assert "examples.jsonl, line 1" in message
    assert f"token {shared} is both a clean and a corrupted answer" in message


@pytest.mark.parametrize("metric", ["logit_difference", "probability_difference"])
def test_a_comparing_metric_needs_something_to_compare_with(tmp_path: Path, tokenizer: Any, metric: str) -> None:
    message = refusal(written(tmp_path, SINGLE), tokenizer, metric=metric)
    assert repr(metric) in message
    assert "log_probability" in message


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [("metric", "logit_diff", "logit_difference"), ("aggregate", "mean", "role"), ("padding_side", "top", "left")],
)
def test_unknown_names_are_refused_with_the_known_ones(
    tmp_path: Path, tokenizer: Any, option: str, value: str, known: str
) -> None:
    message = refusal(written(tmp_path, PAIR), tokenizer, **{option: value})
    assert repr(value) in message
    assert known in message


# token tasks


def test_lists_and_tensors_make_the_same_task() -> None:
    clean, corrupted, right, wrong = [[1, 2, 3], [4, 5, 6]], [[1, 9, 3], [4, 8, 6]], [7, 8], [9, 10]
    from_lists = fc.Task.from_tokens(clean, corrupted, right, wrong)
    tensors = [torch.tensor(part) for part in (clean, corrupted, right, wrong)]
    assert fc.Task.from_tokens(*tensors) == from_lists
    assert from_lists.examples[1] == Example((4, 5, 6), (4, 8, 6), (8,), (10,))


def test_sets_of_answers_as_lists_and_as_a_tensor() -> None:
    by_list = fc.Task.from_tokens([[1], [2]], None, [[7, 8], [9]], metric="probability")
    assert [example.clean_answers for example in by_list.examples] == [(7, 8), (9,)]
    assert by_list.batch([0, 1]).answers.clean.tolist() == [[7, 8], [9, -1]]
    by_tensor = fc.Task.from_tokens([[1], [2]], None, torch.tensor([[7, 8], [9, 3]]), metric="probability")
    assert [example.clean_answers for example in by_tensor.examples] == [(7, 8), (9, 3)]


def test_as_many_answers_as_prompts() -> None:
    with pytest.raises(fc.InputError, match="2 clean prompts, 1 corrupted prompts, 2 clean and 1 corrupted answers"):
        fc.Task.from_tokens([[1], [2]], [[3]], [4, 5], [6])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, []), "task: no examples"),
        (([[]], None, [1]), "example 1: the clean prompt has no tokens"),
        (([[1], [2]], None, [[3], []]), "example 2: no clean answer"),
        (([[1, 2]], [[1]], [3]), "example 1: the clean prompt has 2 tokens, the corrupted one 1"),
        (([[1]], [[2]], [3], [3]), "token 3 is both"),
    ],
)
def test_void_token_tasks_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(fc.InputError, match=message):
        fc.Task.from_tokens(*arguments, metric="probability")


def test_taking_the_first_examples() -> None:
    task = fc.Task.from_tokens([[1], [2], [3]], None, [4, 5, 6], metric="probability")
    assert task.take(2).examples == task.examples[:2]
    for count in (0, 4, -1):
        with pytest.raises(fc.InputError, match=f"{count} examples were asked for; it has 3"):
            task.take(count)


def test_batches_cover_the_task_in_order() -> None:
    task = fc.Task.from_tokens([[1], [2], [3]], [[4], [5], [6]], [7, 7, 7], [8, 8, 8])
    batches = list(task.batches(2))
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [2]]
    assert torch.cat([batch.clean.ids for batch in batches]).tolist() == [[1], [2], [3]]
    twins = [batch.corrupted.ids for batch in batches if batch.corrupted is not None]
    assert torch.cat(twins).tolist() == [[4], [5], [6]]


def test_the_hash_is_of_examples_and_metric_only() -> None:
    """Results may be compared where they come from the same examples, whatever the task is called."""
    task = fc.Task.from_tokens([[1, 2]], None, [3], metric="probability")
    assert task.sha256 == task.with_options(name="another", aggregate="sum").sha256
    others = [
        task.with_options(metric="log_probability"),
        fc.Task.from_tokens([[1, 9]], None, [3], metric="probability"),
        fc.Task.from_tokens([[1, 2]], None, [4], metric="probability"),
    ]
    assert len({task.sha256, *(other.sha256 for other in others)}) == 4


# places


def spans(*roles: tuple[str, int, int]) -> tuple[tuple[str, Span], ...]:
    return tuple((name, Span(start, end)) for name, start, end in roles)


def role_task(**options: Any) -> fc.Task:
    examples = (
        Example((5, 6, 7, 8), None, (1,), roles=spans(("subject", 1, 2), ("rest", 2, 4))),
        Example((5, 6), None, (1,), roles=spans(("subject", 0, 1))),
    )
    return fc.Task(examples, metric="probability", **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_role_is_a_place_and_the_rest_is_other(side: str) -> None:
    task = role_task(aggregate="role", padding_side=side)
    task.check_places()
    assert task.places == ("subject", "rest", OTHER)
    short = [0, 2]
    padded = [-1, -1, *short] if side == "left" else [*short, -1, -1]
    assert task.batch([0, 1]).places.tolist() == [[2, 0, 1, 1], padded]


@pytest.mark.parametrize("side", ["left", "right"])
def test_summed_positions_have_one_place(side: str) -> None:
    task = role_task(aggregate="sum", padding_side=side)
    task.check_places()
    assert task.places == (None,)
    padded = [-1, -1, 0, 0] if side == "left" else [0, 0, -1, -1]
    assert task.batch([0, 1]).places.tolist() == [[0, 0, 0, 0], padded]


def test_each_position_is_a_place() -> None:
    task = fc.Task.from_tokens([[5, 6, 7], [8, 9, 5]], None, [1, 1], metric="probability")
    task.check_places()
    assert task.places == (0, 1, 2)
    assert task.batch([0, 1]).places.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_prompts_of_different_lengths_have_no_common_positions() -> None:
    with pytest.raises(fc.InputError, match="2 to 4 tokens have no common positions.*role.*sum"):
        role_task(aggregate="none").check_places()


def test_roles_need_a_role() -> None:
    task = fc.Task.from_tokens([[5, 6]], None, [1], metric="probability", aggregate="role")
    with pytest.raises(fc.InputError, match="no example names a role"):
        task.check_places()


# padding


@pytest.mark.parametrize(
    ("side", "ids", "mask", "last"),
    [
        ("right", [[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]], [2, 0]),
        ("left", [[7, 8, 9], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]], [2, 2]),
    ],
)
def test_padding_by_hand(side: str, ids: list[list[int]], mask: list[list[int]], last: list[int]) -> None:
    tokens = Tokens.pad([[7, 8, 9], [5]], pad_id=0, side=side)
    assert (tokens.ids.tolist(), tokens.mask.tolist(), tokens.last.tolist()) == (ids, mask, last)
    assert len(tokens) == 2


@settings(deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    width=st.integers(0, 9),
    pad_id=st.integers(0, 9),
)
def test_padding_loses_nothing(prompts: list[list[int]], side: str, width: int, pad_id: int) -> None:
    """Also where the padding is a token that prompts use: only the mask says what is padding."""
    tokens = Tokens.pad(prompts, pad_id, side, width)
    assert tokens.ids.shape == (len(prompts), max(width, *map(len, prompts)))
    for row, prompt in enumerate(prompts):
        real = tokens.mask[row] == 1
        assert tokens.ids[row][real].tolist() == prompt
        assert tokens.positions[row][real].tolist() == list(range(len(prompt)))
        assert tokens.last[row] == real.nonzero().max()
        assert (tokens.ids[row][~real] == pad_id).all()


def test_selecting_prompts_keeps_ids_and_masks_together() -> None:
    chosen = Tokens.pad([[1], [2, 3], [4]], pad_id=0).select(torch.tensor([2, 1]))
    assert (chosen.ids.tolist(), chosen.mask.tolist()) == ([[4, 0], [2, 3]], [[1, 0], [1, 1]])


# metrics

LOGITS = torch.tensor([[1.0, 2.0, 4.0, 0.5]], dtype=torch.float64)


def softmax(logits: Tensor) -> list[float]:
    """By hand, so that no metric is held against its own code."""
    weights = [math.exp(value) for value in logits[0].tolist()]
    return [weight / sum(weights) for weight in weights]


def answers(clean: list[int], corrupted: list[int], reference: Tensor | None = None) -> Answers:
    return Answers(torch.tensor([clean]), torch.tensor([corrupted]), reference)


@pytest.mark.parametrize(
    ("clean", "corrupted", "expected"),
    [([2], [0], 3.0), ([0], [2], -3.0), ([2, 1], [0, 3], 3.0 - 0.75), ([2, -1], [0, 3], 4.0 - 0.75)],
)
def test_logit_difference(clean: list[int], corrupted: list[int], expected: float) -> None:
    """-1 fills up the smaller sets of a batch and counts for nothing."""
    assert METRICS.parse("logit_difference")(LOGITS, answers(clean, corrupted)).item() == pytest.approx(expected)


def test_a_demeaned_logit_before_the_soft_cap_is_that_without_a_cap() -> None:
    before, judged = (3 * LOGITS).requires_grad_(), answers([2, 1], [0])
    plain = METRICS.parse("demeaned_logit")(before, judged)
    assert plain.item() == pytest.approx(3 * (LOGITS[0, [1, 2]].mean() - LOGITS.mean()).item())
    undone = METRICS.parse("demeaned_logit:cap=30")(30 * torch.tanh(before / 30), judged)
    slopes = [torch.autograd.grad(value, before)[0] for value in (plain, undone)]
    torch.testing.assert_close(undone, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clean", [[2], [2, 1], [1, -1, -1], [0, 1, 2, 3]])
def test_probability_and_its_logarithm(clean: list[int]) -> None:
    total = sum(softmax(LOGITS)[token] for token in clean if token >= 0)
    assert METRICS.parse("probability")(LOGITS, answers(clean, [-1])).item() == pytest.approx(total)
    found = METRICS.parse("log_probability")(LOGITS, answers(clean, [-1])).item()
    assert found == pytest.approx(math.log(total), abs=1e-12)


def test_probability_difference() -> None:
    p = softmax(LOGITS)
    found = METRICS.parse("probability_difference")(LOGITS, answers([2, -1], [0, 3])).item()
    assert found == pytest.approx(p[2] - p[0] - p[3])


def test_kl_by_hand() -> None:
    """Negative, as every metric grows with the behaviour: here, with closeness to the unedited run."""
    reference = torch.tensor([[0.0, 1.0, 0.0, 2.0]], dtype=torch.float64)
    p, q = softmax(reference), softmax(LOGITS)
    expected = -sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert expected < -0.1
    assert METRICS.parse("kl")(LOGITS, answers([2], [0], reference)).item() == pytest.approx(expected)


logits_of_four = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


@settings(deadline=None)
@given(one=logits_of_four, other=logits_of_four, shift=st.floats(-5, 5))
def test_a_divergence_is_never_negative_and_ignores_a_shift(one: list[float], other: list[float], shift: float) -> None:
    first, second = torch.tensor([one], dtype=torch.float64), torch.tensor([other], dtype=torch.float64)
    assert METRICS.parse("kl")(first, answers([0], [1], second)).item() <= 1e-12
    assert METRICS.parse("kl")(first, answers([0], [1], first)).item() == 0
    assert METRICS.parse("kl")(first + shift, answers([0], [1], first)).item() == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(values=logits_of_four, step=st.floats(0.5, 3))
def test_every_metric_grows_with_the_clean_answer(values: list[float], step: float) -> None:
    """The edited run is moved towards the unedited one, whose clean answer is likelier."""
    weak = torch.tensor([values], dtype=torch.float64) / 4
    strong = weak.clone()
    strong[0, 2] += step
    judged = answers([2], [0], strong)
    for metric in map(METRICS.parse, METRICS):
        assert metric(strong, judged).item() > metric(weak, judged).item()


def test_metrics_judge_row_by_row() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 7.0]])
    judged = Answers(torch.tensor([[1], [2]]), torch.tensor([[0], [0]]), logits.flip(0))
    for name in METRICS:
        metric = METRICS.parse(name)
        both = metric(logits, judged)
        alone = [metric(logits[row : row + 1], judged.select(torch.tensor([row]))) for row in (0, 1)]
        torch.testing.assert_close(both, torch.cat(alone), msg=name)


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(fc.InputError, match="unknown metric 'accuracy'; known: .*logit_difference"):
        METRICS.parse("accuracy")


def test_an_appended_end_token_is_not_part_of_the_prompt(tmp_path: Path) -> None:
    path = written(tmp_path, {"prefix": "xy", "answer": "b"})
    (example,) = fc.Task.from_jsonl(path, Characters(ends=True)).examples
    assert example.clean == (1, ord("x"), ord("y"))


def test_a_line_separator_inside_a_json_string_is_no_line_break(tmp_path: Path, tokenizer: Any) -> None:
    line = json.dumps({**SINGLE, "prefix": "The\u2028author"}, ensure_ascii=False)
    assert len(fc.Task.from_jsonl(written(tmp_path, line), tokenizer)) == 1


@pytest.mark.parametrize("answer", [torch.tensor(3), np.int64(3), [3], torch.tensor([3])])
def test_answers_may_be_scalars_of_any_library(answer: Any) -> None:
    task = fc.Task.from_tokens([[1, 2]], None, [answer], metric="probability")
    assert task.examples[0].clean_answers == (3,)


def test_ids_that_are_not_token_ids_are_refused() -> None:
    with pytest.raises(fc.InputError, match="-1 is not a token id"):
        fc.Task.from_tokens([[1, 2]], None, [-1], metric="probability")
    with pytest.raises(fc.InputError, match="one sequence of token ids for each"):
        fc.Task.from_tokens([1, 2], None, [3, 4], metric="probability")
    with pytest.raises(fc.InputError, match="one token id per example"):
        fc.Task.from_tokens([[1, 2]], None, [0.5], metric="probability")
