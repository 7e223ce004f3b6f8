"""Prompts for indirect object identification, made for whatever tokenizer a model has."""

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import featcircuits as fc

TEMPLATES = (
    "After {a} and {b} had lunch at the station, {s} handed the umbrella to",
    "When {a} and {b} were walking home, {s} offered a sandwich to",
    "Because {a} and {b} worked late at the office, {s} sent the report to",
    "While {a} and {b} cleaned the kitchen, {s} passed the bucket to",
)
NAMES = "Mary John Tom James Dan Sarah Anna Paul Mark Alice Jack Laura Kate Peter Susan David".split()


def ioi_tasks(tokenizer: Any, pairs: int) -> Iterator[fc.Task]:
    """One task a template, so that positions mean the same in all its prompts.

    The clean prompt has one of two names as the giver, the corrupted prompt the other; only names
    that are a single token with a space before them are used.
    """
    single = [name for name in NAMES if len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]) == 1]
    if len(single) < 4:
        raise SystemExit(f"the tokenizer knows only {len(single)} of the names as single tokens; give --task")
    couples = [couple for couple in permutations(single, 2)][:: max(1, len(single) // 2)]
    for template in TEMPLATES:
        clean, corrupted, right, wrong = [], [], [], []
        for a, b in couples[:pairs]:
            prompts = [tokenizer(template.format(a=a, b=b, s=giver))["input_ids"] for giver in (b, a)]
            answers = [tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0] for name in (a, b)]
            clean.append(prompts[0])
            corrupted.append(prompts[1])
            right.append(answers[0])
            wrong.append(answers[1])
        yield fc.Task.from_tokens(clean, corrupted, right, wrong, name=template)
