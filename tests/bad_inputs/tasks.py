"""Task files: lines that are no examples, files that are no tasks, and tasks that show nothing."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import featcircuits as fc
from featcircuits.tasks.examples import Example
from tests.bad_inputs.case import Case, command
from tests.bad_inputs.shared import TASKS, shipped, tokenizer
from tests.test_tasks import PAIR, SINGLE

ROLE = {"prefix": "The author", "answer": " is"}


def read(*lines: Any, **options: Any) -> fc.Task:
    """A task file of these lines; what is no text is written as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path("task.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return fc.Task.from_jsonl("task.jsonl", tokenizer(), **options)


def bytes_of(content: bytes) -> fc.Task:
    Path("task.jsonl").write_bytes(content)
    return fc.Task.from_jsonl("task.jsonl", tokenizer())


def role(name: str, where: Any = "author") -> dict[str, Any]:
    return {**SINGLE, "roles": {name: where}}


def agreement(count: int) -> list[dict[str, Any]]:
    """The first pairs of a shipped task."""
    return [json.loads(line) for line in (TASKS / "agreement_rc_train.jsonl").read_text().splitlines()[:count]]


def wrong() -> None:
    rows = [{**row, "clean_answer": row["patch_answer"], "patch_answer": row["clean_answer"]} for row in agreement(4)]
    fc.trace(shipped(), read(*rows), nodes="atp", edges=None)


LINES: dict[str, Any] = {
    "a line that breaks off": '{"clean_prefix": "The',
    "a line that is a list": [1, 2],
    "a line that is `null`": "null",
    "a misspelt field": {**SINGLE, "wrong_anwser": " are"},
    "a line without an answer": {"prefix": "The author"},
    "a pair without its second answer": {key: PAIR[key] for key in PAIR if key != "patch_answer"},
    "an empty prefix": {**SINGLE, "prefix": ""},
    "a number for a prefix": {**SINGLE, "prefix": 3},
    "an answer of two tokens": {**SINGLE, "answer": " is not"},
    "an answer of no token": {**SINGLE, "answer": " "},
    "an answer that the tokenizer does not know": {**SINGLE, "answer": " zebra"},
    "an empty set of answers": {**SINGLE, "answer": []},
    "10,001 answers": {**SINGLE, "answer": [f" {n}" for n in range(10_001)]},
    "`null` for a wrong answer": {**SINGLE, "wrong_answer": None},
    "an answer that is right and wrong": {**SINGLE, "wrong_answer": [" are", " is"]},
    "a role with a line break": role("sub\nject"),
    "a role with a terminal's escape code": role("\x1b[31msubject"),
    "a role named like a position": role("7"),
    "a role named `other`": role("other"),
    "an empty role name": role(""),
    "a role name of 300 characters": role("a" * 300),
    "a role that is not in the prompt": role("verb", "runs"),
    "a role that is in the prompt twice": {**role("article", "the"), "prefix": "the cat the dog"},
    "a role beyond the prompt": role("subject", [4, 99]),
    "a role that ends before it begins": role("subject", [5, 4]),
    "`true` and `false` as a role's offsets": role("subject", [False, True]),
    "a role of a single space": role("gap", [3, 4]),
    "roles that overlap": {**SINGLE, "roles": {"all": "The author", "subject": "author"}},
    "roles as a list": {**SINGLE, "roles": ["author"]},
    "the same key twice": '{"prefix": "The", "prefix": "A", "answer": " is"}',
    "the same role twice": '{"prefix": "The author", "answer": " is", "roles": {"a": "The", "a": "author"}}',
    "`NaN` for a prefix": '{"prefix": NaN, "answer": " is"}',
    "a number of 5,000 digits": '{"prefix": ' + "9" * 5000 + ', "answer": " is"}',
    "brackets nested 100,000 deep": '{"prefix": ' + "[" * 100_000 + "}",
    "half of a surrogate pair": '{"prefix": "The \\ud800", "answer": " is"}',
    "messages for a model without a chat template": {
        **SINGLE,
        "prefix": {"messages": [{"role": "user", "content": "The author"}]},
    },
    "a special token that the model does not have, in front": {**SINGLE, "prepend": "<|endoftext|>"},
    "a case of two lines": {**SINGLE, "case": "a\nb"},
}

PAIRS: dict[str, Any] = {
    "a pair of the same two prompts": {**PAIR, "patch_prefix": "The author"},
    "a pair that is the same where words are unknown": {
        **PAIR,
        "clean_prefix": "The zorp",
        "patch_prefix": "The blarp",
    },
    "a pair of prompts of different lengths": {**PAIR, "patch_prefix": "The young authors"},
    "single prompts among pairs": SINGLE,
}

CASES = [
    *(Case(tried, partial(read, SINGLE, line)) for tried, line in LINES.items()),
    *(Case(tried, partial(read, PAIR, line)) for tried, line in PAIRS.items()),
    Case("a task file that is not there", lambda: fc.Task.from_jsonl("nowhere.jsonl", tokenizer())),
    Case("a folder as a task file", lambda: fc.Task.from_jsonl(".", tokenizer())),
    Case("a task file without a line", lambda: bytes_of(b"\n \n")),
    Case("a task file in another encoding", lambda: bytes_of(b'{"prefix": "caf\xe9"}')),
    Case("an unknown metric of a task", lambda: read(PAIR, metric="logit_diff")),
    Case("a metric that compares, of single prompts", lambda: read(SINGLE, metric="logit_difference")),
    Case("an unknown way to put positions together", lambda: read(PAIR, aggregate="mean")),
    Case("padding on top", lambda: read(PAIR, padding_side="top")),
    Case(
        "prompts without one length, positions apart", lambda: read(SINGLE, {**SINGLE, "prefix": "The"}).check_places()
    ),
    Case("positions by role where no line has a role", lambda: read(SINGLE, aggregate="role").check_places()),
    Case("more examples than there are", lambda: read(PAIR).take(4)),
    Case("a third of a single prompt held out", lambda: read(SINGLE).split(0.3, 0)),
    Case("no share at all held out", lambda: read(PAIR, PAIR).split(0.0, 0)),
    Case("a negative token id", lambda: fc.Task.from_tokens([[1, 2]], None, [-1], metric="probability")),
    Case("half a token id", lambda: fc.Task.from_tokens([[1, 2]], None, [0.5], metric="probability")),
    Case("a task of no examples", lambda: fc.Task.from_tokens([], None, [])),
    Case("a prompt of no tokens", lambda: fc.Task.from_tokens([[]], None, [1])),
    Case("fewer answers than prompts", lambda: fc.Task.from_tokens([[1], [2]], [[3], [4]], [5], [6, 7])),
    Case("an example without an answer", lambda: fc.Task((Example((1, 2), None, ()),), metric="probability")),
    Case("answers that the model gets wrong", wrong),
    Case("a task that the suite does not have", partial(command, "trace", "--task", "agreement_simpel")),
]
