"""Six behaviours as pairs of prompts. Training and held-out prompts share no country, name or noun."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import featcircuits as fc
from experiments.real_model.words import ADMIRES, CAPITALS, GIFTS, MEN, OPENINGS, SPANS, SUBJECTS, WELCOMES, WOMEN
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.behaviour import behaviour_of

FRONT = "<|endoftext|>"
"""What documents began with in training; it takes the idle attention that would otherwise go to the first word."""
PARTS = ("train", "test")
CANDIDATES = 4
"""So many times more pairs are made than are wanted; those that the model answers wrongly are left out."""


class Words(NamedTuple):
    """The part of the words that training, or held-out, pairs are made of."""

    part: int
    single: Callable[[str], bool]
    """Whether a word is one token after a space."""

    def of(self, words: Sequence[str], also: Mapping[str, str] | None = None) -> list[str]:
        """Every second word; with `also`, of those whose partner is a single token too."""
        fit = [word for word in words if self.single(word) and (also is None or self.single(also[word]))]
        return fit[self.part :: 2]


Row = dict[str, Any]


def _pair(prompts: Iterable[str], right: str | list[str], wrong: str | list[str]) -> Row:
    clean, corrupted = prompts
    return {"clean_prefix": clean, "patch_prefix": corrupted, "clean_answer": right, "patch_answer": wrong}


def capital(words: Words) -> Iterator[Row]:
    """The capital of a country."""
    countries = words.of(list(CAPITALS), CAPITALS)
    for one in countries:
        for other in countries:
            if one != other:
                prompts = (f"The capital of {country} is" for country in (one, other))
                yield _pair(prompts, f" {CAPITALS[one]}", f" {CAPITALS[other]}")


def gender(words: Words) -> Iterator[Row]:
    """The pronoun of a name."""
    for man in words.of(MEN):
        for woman in words.of(WOMEN):
            for text in WELCOMES:
                sides = [(text.format(man), " he"), (text.format(woman), " she")]
                for one, other in (sides, sides[::-1]):
                    yield _pair((one[0], other[0]), one[1], other[1])


def greater_than(words: Words) -> Iterator[Row]:
    """An end after a beginning (Hanna et al. 2023), told by its tens: decades that only one beginning allows."""
    for thing in SPANS[words.part :: 2]:
        for century in (17, 18, 19):
            for early in (2, 3, 4):
                for late in (6, 7, 8):
                    prompts = [f"The {thing} lasted from {century}{tens}5 to {century}" for tens in (late, early)]
                    later = [str(tens) for tens in range(late, 10)]
                    between = [str(tens) for tens in range(early, late)]
                    yield _pair(prompts, later, between)


def indirect_object(words: Words) -> Iterator[Row]:
    """Who receives, if the other one gives (Wang et al. 2023)."""
    names = words.of(MEN + WOMEN)
    for a in names:
        for b in names:
            if a != b:
                for text in GIFTS:
                    prompts = (text.format(a=a, b=b, s=giver) for giver in (a, b))
                    yield _pair(prompts, f" {b}", f" {a}")


def _agreement(words: Words, texts: Callable[[str], Iterator[str]]) -> Iterator[Row]:
    for one in words.of(list(SUBJECTS), SUBJECTS):
        for text in texts(one):
            sides = [(text.format(one), " is"), (text.format(SUBJECTS[one]), " are")]
            for first, second in (sides, sides[::-1]):
                yield _pair((first[0], second[0]), first[1], second[1])


def agreement(words: Words) -> Iterator[Row]:
    """The verb after a subject."""
    return _agreement(words, lambda _: (f"{opening} the {{}}" for opening in OPENINGS))


def agreement_clause(words: Words) -> Iterator[Row]:
    """The verb after a relative clause about the subject (Marks et al. 2024)."""
    others = [plural for word in words.of(list(SUBJECTS), SUBJECTS) for plural in (word, SUBJECTS[word])]

    def texts(subject: str) -> Iterator[str]:
        for other in others:
            if other not in (subject, SUBJECTS[subject]):
                for verb in ADMIRES:
                    yield f"The {{}} that the {other} {verb if other.endswith('s') else verb + 's'}"

    return _agreement(words, texts)


BEHAVIOURS: Mapping[str, Callable[[Words], Iterator[Row]]] = {
    "capital": capital,
    "gender": gender,
    "greater_than": greater_than,
    "ioi": indirect_object,
    "agreement": agreement,
    "agreement_clause": agreement_clause,
}


def write_pairs(bare: SplicedModel, folder: Path, counts: Mapping[str, int]) -> None:
    """One file per behaviour and part, of pairs of one length that the model answers right on both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    for behaviour in BEHAVIOURS:
        for part in PARTS:
            path = folder / f"{behaviour}_{part}.jsonl"
            if not path.exists():
                rows = _right(bare, path, _candidates(bare.tokenizer, behaviour, part, counts[part]))
                path.write_text("".join(json.dumps(row) + "\n" for row in rows[: counts[part]]), encoding="utf-8")


def _candidates(tokenizer: Any, behaviour: str, part: str, count: int) -> list[Row]:
    """Pairs whose prompts all have the most common length, in random order."""

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    words = Words(PARTS.index(part), lambda word: tokens(f" {word}") == 1)
    rows = list(BEHAVIOURS[behaviour](words))
    random.Random(f"{behaviour} {part}").shuffle(rows)
    rows = rows[: 2 * CANDIDATES * count]
    lengths = [{tokens(row["clean_prefix"]), tokens(row["patch_prefix"])} for row in rows]
    usual, _ = Counter(min(own) for own in lengths if len(own) == 1).most_common(1)[0]
    return [row for row, own in zip(rows, lengths, strict=True) if own == {usual}][: CANDIDATES * count]


def _right(bare: SplicedModel, path: Path, rows: list[Row]) -> list[Row]:
    """Those that the model answers right on both sides."""
    draft = path.with_suffix(".candidates")
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    try:
        task = fc.Task.from_jsonl(draft, bare.tokenizer, prepend=FRONT)
    finally:
        draft.unlink()
    right = behaviour_of(bare, task).right
    print(f"{path.stem}: {sum(right)} of {len(right)} pairs right on both sides")
    return [row for row, kept in zip(rows, right, strict=True) if kept]


def task_of(spliced: SplicedModel, folder: Path, behaviour: str, part: str, count: int | None = None) -> fc.Task:
    """The pairs of a file, or the first `count`."""
    task = fc.Task.from_jsonl(folder / f"{behaviour}_{part}.jsonl", spliced.tokenizer, prepend=FRONT)
    return task if count is None else task.take(min(count, len(task)))
