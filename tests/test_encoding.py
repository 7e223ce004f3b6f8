"""Task lines as tokens: what stands in front, chat templates, spans, answers in context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import featcircuits as fc
from featcircuits.tasks.encoding import Encoder, unknown_id
from featcircuits.tasks.examples import Span
from featcircuits.tasks.token_rows import read_rows
from tests.tokenizers import CHAT, byte_level, sentence_pieces

MODEL = Path(__file__).parents[1] / "saes" / "grammar-4l" / "model"
AROUND = ("<s> $A", "$A </s>", "<s> $A </s>", "$A")
PAIR = {"clean_prefix": "The author", "patch_prefix": "The authors", "clean_answer": " is", "patch_answer": " said"}


@pytest.fixture(scope="module")
def gpt() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture(scope="module")
def chat() -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.chat_template = CHAT
    return tokenizer


def task_of(folder: Path, tokenizer: Any, *rows: Any, **options: Any) -> fc.Task:
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return fc.Task.from_jsonl(path, tokenizer, **options)


def refusal(folder: Path, tokenizer: Any, *rows: Any, **options: Any) -> str:
    with pytest.raises(fc.InputError) as caught:
        task_of(folder, tokenizer, *rows, **options)
    return str(caught.value)


def tokens(tokenizer: Any, ids: Any) -> list[str]:
    return tokenizer.convert_ids_to_tokens(list(ids))


# special tokens


@pytest.mark.parametrize("around", AROUND)
def test_a_beginning_token_comes_once_and_an_end_token_not_at_all(tmp_path: Path, around: str) -> None:
    tokenizer = sentence_pieces(around)
    (example,) = task_of(tmp_path, tokenizer, PAIR).examples
    front = ["<s>"] if around.startswith("<s>") else []
    assert tokens(tokenizer, example.clean) == [*front, "▁The", "▁author"]
    assert tokens(tokenizer, example.clean_answers) == ["▁is"]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("text", ["<s>The author", "<s> The author"])
def test_a_text_that_begins_with_the_beginning_token_gets_no_second(tmp_path: Path, around: str, text: str) -> None:
    tokenizer = sentence_pieces(around)
    row = {**PAIR, "clean_prefix": text, "patch_prefix": f"{text}s", "roles": {"subject": "author"}}
    (example,) = task_of(tmp_path, tokenizer, row).examples
    assert tokens(tokenizer, example.clean).count("<s>") == 1
    assert tokens(tokenizer, example.clean)[0] == "<s>"
    ((_, span),) = example.roles
    assert tokens(tokenizer, example.clean)[slice(*span)] == ["▁author"]


@pytest.mark.parametrize("around", AROUND)
def test_a_prompts_own_end_token_stays(tmp_path: Path, around: str) -> None:
    row = {"prefix": "The author</s>", "answer": "is"}
    tokenizer = sentence_pieces(around)
    (example,) = task_of(tmp_path, tokenizer, row).examples
    assert tokens(tokenizer, example.clean)[-2:] == ["▁author", "</s>"]


@pytest.mark.parametrize("around", AROUND)
def test_the_end_token_can_be_an_answer(tmp_path: Path, around: str) -> None:
    tokenizer = sentence_pieces(around)
    (example,) = task_of(
        tmp_path, tokenizer, {"prefix": "The author", "answer": "</s>", "wrong_answer": " is"}
    ).examples
    assert tokens(tokenizer, example.clean_answers) == ["</s>"]


@pytest.mark.parametrize("answer", ["<|endoftext|>", "<|end|>"])
def test_a_token_that_also_stands_for_unknown_words_can_be_an_answer(
    tmp_path: Path, gpt: PreTrainedTokenizerFast, answer: str
) -> None:
    assert unknown_id(gpt) is None
    (example,) = task_of(tmp_path, gpt, {"prefix": "The author", "answer": answer}).examples
    assert tokens(gpt, example.clean_answers) == [answer]


def test_a_text_that_begins_twice_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, sentence_pieces(), {"prefix": "<s><s>The author", "answer": " is"})
    assert "task.jsonl, line 1: the prompt begins twice with '<s>'; remove one" in message


def test_lines_of_a_text_begin_once_too(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfThe author is\r\n\n<s>The author is here\n")
    tokenizer = sentence_pieces()
    rows = read_rows(path, tokenizer, 4)
    assert [tokens(tokenizer, row) for row in rows] == [["<s>", "▁The", "▁author", "▁is"]] * 2


# prepend

END = "<|endoftext|>"


@pytest.mark.parametrize("row", [{**PAIR, "prepend": END}, PAIR], ids=["in the line", "as an option"])
def test_what_is_prepended_stands_in_front_of_both_prompts(tmp_path: Path, gpt: Any, row: dict[str, Any]) -> None:
    row = {**row, "roles": {"subject": "author", "determiner": [0, 3]}}
    (example,) = task_of(tmp_path, gpt, row, prepend=END if "prepend" not in row else "").examples
    assert tokens(gpt, example.clean) == [END, "The", "Ġauthor"]
    assert tokens(gpt, example.corrupted) == [END, "The", "Ġauthors"]
    assert example.roles == (("subject", Span(2, 3)), ("determiner", Span(1, 2)))
    assert tokens(gpt, example.clean_answers) == ["Ġis"]


def test_a_lines_own_prepend_wins(tmp_path: Path, gpt: Any) -> None:
    first, second = task_of(tmp_path, gpt, {**PAIR, "prepend": "<|end|>"}, PAIR, prepend=END).examples
    assert (tokens(gpt, first.clean)[0], tokens(gpt, second.clean)[0]) == ("<|end|>", END)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("prefix", ["The author", "<s>The author"])
def test_prepending_the_beginning_token_never_makes_two(tmp_path: Path, around: str, prefix: str) -> None:
    tokenizer = sentence_pieces(around)
    (example,) = task_of(tmp_path, tokenizer, {"prefix": prefix, "answer": " is"}, prepend="<s>").examples
    assert tokens(tokenizer, example.clean) == ["<s>", "▁The", "▁author"]


def test_several_tokens_can_be_prepended(tmp_path: Path, gpt: Any) -> None:
    (example,) = task_of(tmp_path, gpt, PAIR, prepend="<|user|><|end|>").examples
    assert tokens(gpt, example.clean)[:3] == ["<|user|>", "<|end|>", "The"]


@pytest.mark.parametrize("text", ["<|endofttext|>", "<bos>", "[CLS]"])
def test_a_misspelt_special_token_is_refused(tmp_path: Path, gpt: Any, text: str) -> None:
    message = refusal(tmp_path, gpt, PAIR, prepend=text)
    assert f"line 1: prepend: {text!r} is not a token of the tokenizer" in message
    assert END in message


# messages


def conversation(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


def test_messages_are_rendered_up_to_the_answer(tmp_path: Path, chat: Any) -> None:
    row = {"prefix": conversation("The author"), "answer": "The", "roles": {"subject": "author"}}
    (example,) = task_of(tmp_path, chat, row).examples
    assert tokens(chat, example.clean) == ["<|user|>", "The", "Ġauthor", "<|end|>", "<|assistant|>"]
    assert example.roles == (("subject", Span(2, 3)),)


def test_an_answer_that_the_assistant_has_begun_is_continued(tmp_path: Path, chat: Any) -> None:
    row = {**PAIR, "clean_prefix": conversation("The author", "She said that"), "patch_answer": " he"}
    row |= {"patch_prefix": conversation("The authors", "She said that"), "clean_answer": " she"}
    row |= {"clean_answer": " was", "patch_answer": " his"}
    (example,) = task_of(tmp_path, chat, row).examples
    assert tokens(chat, example.clean)[-4:] == ["<|assistant|>", "She", "Ġsaid", "Ġthat"]
    assert tokens(chat, example.clean_answers) == ["Ġwas"]


def test_a_rendered_beginning_token_does_not_come_twice(tmp_path: Path) -> None:
    tokenizer = sentence_pieces()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    (example,) = task_of(tmp_path, tokenizer, {"prefix": conversation("The author"), "answer": " is"}).examples
    assert tokens(tokenizer, example.clean) == ["<s>", "▁The", "▁author"]


def test_messages_need_a_template(tmp_path: Path, gpt: Any) -> None:
    message = refusal(tmp_path, gpt, {"prefix": conversation("The author"), "answer": " is"})
    assert "line 1: messages need a tokenizer with a chat template; this one has none" in message


def test_what_a_template_refuses_is_refused_by_line(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    good = {"prefix": "The", "answer": " author"}
    message = refusal(tmp_path, tokenizer, good, {"prefix": conversation("The author"), "answer": "The"})
    assert "line 2: the chat template refuses the messages: roles must alternate" in message


# answers in context

WORDS = ("is", "was", "said", "his", "her", "that", "the", "to", "of", "gave")


@pytest.mark.parametrize("make", [byte_level, sentence_pieces])
@pytest.mark.parametrize("filler", [" said that", " 1 of 2: yes! she", "x", "the", " "], ids=ascii)
def test_answers_to_long_prompts_are_those_of_the_whole_text(make: Any, filler: str) -> None:
    """Held against every answer tokenised with its whole prompt."""
    tokenizer = make()
    text = ("The author" + filler * 400)[:3000].rstrip() + " gave"
    encoder = Encoder.of(tokenizer)
    prompt = encoder.prompt(text)
    stem = tokenizer(text, add_special_tokens=False)["input_ids"]
    for word in WORDS:
        whole = tokenizer(f"{text} {word}", add_special_tokens=False)["input_ids"]
        if whole[:-1] == stem:
            assert encoder.answers(prompt, [f" {word}"], "answer") == (whole[-1],)


def test_a_long_prompt_is_tokenised_once_for_all_of_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters that are tokenised grow with the prompt and with the answers, and not with their product."""
    tokenizer, seen = AutoTokenizer.from_pretrained(MODEL), 0
    whole = type(tokenizer).__call__

    def counted(self: Any, text: Any, **options: Any) -> Any:
        nonlocal seen
        seen += sum(map(len, text)) if isinstance(text, list) else len(text)
        return whole(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    encoder = Encoder.of(tokenizer)
    prompt = encoder.prompt("The author that the guide calls " * 2000 + "is")
    words = [f" {word}" for word in list(tokenizer.get_vocab()) if word.isalpha()] * 4
    assert len(words) > 2000
    answers = encoder.answers(prompt, words, "answer")
    assert len(answers) == len(set(words))
    assert seen < 2 * len(prompt.text) + 300 * len(words) + 64 * 400


def test_more_answers_than_a_set_may_have_are_refused(tmp_path: Path, gpt: Any) -> None:
    message = refusal(tmp_path, gpt, {"prefix": "The author", "answer": [f" {n}" for n in range(10_001)]})
    assert "line 1: field 'answer' has 10001 answers; a set may have 10000" in message


# unknown words


def test_unknown_words_are_named() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    encoder = Encoder.of(tokenizer)
    assert encoder.unknown_words(encoder.prompt("The zorp author blarps the zorp")) == ("zorp", "blarps", "zorp")
    assert encoder.unknown_words(encoder.prompt("The author")) == ()


def test_prepended_ends_of_texts_are_no_unknown_words(gpt: Any) -> None:
    encoder = Encoder.of(gpt)
    prompt = encoder.prompt("The author", prepend=END)
    assert prompt.ids[0] == gpt.unk_token_id
    assert encoder.unknown_words(prompt) == ()


def test_a_separator_of_documents_that_no_word_becomes_can_be_prepended() -> None:
    """SmolLM2's tokenizer: bytes, chat markers as BOS and EOS, and the separator named as the unknown word."""
    chat = byte_level(bos_token="<|im_start|>", eos_token="<|im_end|>")
    assert chat.unk_token == END
    assert unknown_id(chat) is None
    assert Encoder.of(chat).prompt("The author", prepend=END).ids[0] == chat.unk_token_id
    assert unknown_id(sentence_pieces()) is not None


# pairs that are the same


@pytest.mark.parametrize(
    ("clean", "corrupted", "words"),
    [("The author", "The author", ""), ("The zorp", "The blarp", "'zorp', 'blarp'"), ("The  author", "The author", "")],
)
def test_pairs_of_the_same_tokens_are_refused_by_line(tmp_path: Path, clean: str, corrupted: str, words: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    good = {**PAIR, "patch_answer": " are"}
    message = refusal(tmp_path, tokenizer, good, {**good, "clean_prefix": clean, "patch_prefix": corrupted})
    assert "task.jsonl, line 2: the clean and the corrupted prompt have the same tokens" in message
    assert words in message


def test_pairs_of_the_same_ids_are_refused_by_example() -> None:
    with pytest.raises(fc.InputError, match="task, example 2: the clean and the corrupted prompt have the same tokens"):
        fc.Task.from_tokens([[1, 2], [3, 4]], [[1, 5], [3, 4]], [6, 6], [7, 7])


def test_a_leading_byte_order_mark_is_passed_over(tmp_path: Path, gpt: Any) -> None:
    path = tmp_path / "task.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode())
    assert len(fc.Task.from_jsonl(path, gpt)) == 1


BAD_LINES = {
    "offsets of true and false": ({"roles": {"a": [False, True]}}, "role 'a': [False, True] is neither text"),
    "offsets of floats": ({"roles": {"a": [0.0, 1.0]}}, "role 'a': [0.0, 1.0] is neither text"),
    "one offset": ({"roles": {"a": [0]}}, "role 'a': [0] is neither text"),
    "three offsets": ({"roles": {"a": [0, 1, 2]}}, "role 'a': [0, 1, 2] is neither text"),
    "offsets as texts": ({"roles": {"a": ["0", "3"]}}, "role 'a': ['0', '3'] is neither text"),
    "negative offsets": ({"roles": {"a": [-3, -1]}}, "role 'a': [-3, -1] is neither text"),
    "a number for a role": ({"roles": {"a": 3}}, "role 'a': 3 is neither text"),
    "nothing for a role": ({"roles": {"a": ""}}, "role 'a': '' is neither text"),
    "null for a role": ({"roles": {"a": None}}, "role 'a': None is neither text"),
    "no roles": ({"roles": {}}, "field 'roles' must be an object of name: text or [start, end], found {}; leave out"),
    "null for roles": ({"roles": None}, "field 'roles' must be an object"),
    "false for roles": ({"roles": False}, "field 'roles' must be an object"),
    "roles that overlap by one word": ({"roles": {"a": [0, 5], "b": "author"}}, "role 'b' overlaps another role"),
    "an overlapping find": ({"prefix": "aaaa", "roles": {"a": "aaa"}}, "role 'a': 'aaa' occurs 2 times"),
    "a number for a prefix": ({"prefix": 7}, "field 'prefix' must be a non-empty string, found 7"),
    "true for a prefix": ({"prefix": True}, "field 'prefix' must be a non-empty string, found True"),
    "a list for a prefix": ({"prefix": ["The"]}, "field 'prefix' must be a non-empty string, found ['The']"),
    "a number for an answer": ({"answer": 7}, "field 'answer' must be a non-empty string or a list of them, found 7"),
    "numbers for answers": ({"answer": [" is", 7]}, "field 'answer' must be a non-empty string or a list of them"),
    "an answer of answers": ({"answer": [[" is"]]}, "field 'answer' must be a non-empty string or a list of them"),
    "null for a wrong answer": ({"wrong_answer": None}, "field 'wrong_answer' must be a non-empty string or a list"),
    "no wrong answers": ({"wrong_answer": []}, "field 'wrong_answer' must be a non-empty string or a list"),
    "a number for a case": ({"case": 3}, "case must be a text, found int 3"),
    "a case of two lines": ({"case": "a\nb"}, "case 'a\\nb' holds '\\n'"),
    "an empty prepend": ({"prepend": ""}, "field 'prepend' must be a non-empty string, found ''"),
    "a number for prepend": ({"prepend": 3}, "field 'prepend' must be a non-empty string, found 3"),
    "an object without messages": (
        {"prefix": {"text": "The"}},
        "field 'prefix' must be a text or {\"messages\": [...]}",
    ),
    "messages and more": ({"prefix": {"messages": [], "x": 1}}, "field 'prefix' must be a text or"),
    "no messages": ({"prefix": {"messages": []}}, "messages must be a list of one message or more, found []"),
    "a text for messages": ({"prefix": {"messages": "hi"}}, "messages must be a list of one message or more"),
    "a message of text": ({"prefix": {"messages": ["hi"]}}, "a message has 'role' and 'content', found 'hi'"),
    "a message without role": ({"prefix": {"messages": [{"content": "x"}]}}, "a message has 'role' and 'content'"),
    "content of parts": (
        {"prefix": {"messages": [{"role": "user", "content": [{"text": "x"}]}]}},
        "a message's content must be a text",
    ),
    "a bad message role": (
        {"prefix": {"messages": [{"role": "us\ner", "content": "x"}]}},
        "field 'prefix': a message's role 'us\\ner' holds '\\n'",
    ),
    "a hundred roles and one": ({"roles": {f"r{n}": [n, n + 1] for n in range(101)}}, "'roles' has 101 roles; a line"),
    "a prompt of any length": ({"prefix": "x" * 1_000_001}, "'prefix': a text has 1000001 characters; it may have"),
    "an answer of any length": ({"answer": "x" * 1_000_001}, "'answer': a text has 1000001 characters; it may have"),
    "a misspelt field": ({"anwser": " is"}, "unknown field 'anwser'; known: prefix, answer"),
    "messages at the top": ({"messages": [{"role": "user", "content": "x"}]}, "unknown field 'messages'"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_lines_that_mean_nothing_are_refused_by_line(tmp_path: Path, gpt: Any, case: str) -> None:
    change, part = BAD_LINES[case]
    good = {"prefix": "The author", "answer": " is"}
    message = refusal(tmp_path, gpt, good, {**good, **change})
    assert message.startswith(f"{tmp_path / 'task.jsonl'}, line 2: ")
    assert part in message
    assert len(message) < 600


BAD_TEXTS = {
    "a key twice": ('{"prefix": "The", "prefix": "A", "answer": " is"}', "'prefix' is given twice"),
    "a role twice": ('{"prefix": "The", "answer": " is", "roles": {"a": "T", "a": "h"}}', "'a' is given twice"),
    "not a number": ('{"prefix": NaN, "answer": " is"}', "NaN is not a number"),
    "infinity": ('{"prefix": "The", "answer": Infinity}', "Infinity is not a number"),
    "thousands of digits": ('{"prefix": ' + "9" * 5000 + ', "answer": " is"}', "digits"),
    "deep nesting": ('{"prefix": ' + "[" * 100_000 + "}", "nested too deeply"),
    "half a surrogate pair": ('{"prefix": "The \\ud800", "answer": " is"}', "half of a surrogate pair"),
    "a text": ('"The author"', "a line must be a JSON object, found str"),
    "null": ("null", "a line must be a JSON object, found NoneType"),
    "cut off": ('{"prefix": "The', "not valid JSON (Unterminated string starting at, column 12"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_lines_that_are_no_plain_object_are_refused_by_line(tmp_path: Path, gpt: Any, case: str) -> None:
    text, part = BAD_TEXTS[case]
    path = tmp_path / "task.jsonl"
    path.write_text(f'{{"prefix": "The author", "answer": " is"}}\n\n{text}\n', encoding="utf-8")
    with pytest.raises(fc.InputError) as caught:
        fc.Task.from_jsonl(path, gpt)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert part in str(caught.value)
    assert len(str(caught.value)) < 500
