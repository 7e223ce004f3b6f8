"""Tasks: examples of a behaviour, their answers, and where their positions stand in a circuit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.inputs.names import OTHER, check_name, made_name
from featcircuits.inputs.ranges import BATCHES, check_number
from featcircuits.model.fingerprints import tokenizer_fingerprint
from featcircuits.model.nodes import AGGREGATES
from featcircuits.model.tokens import Tokens
from featcircuits.tasks.alignment import by_role, finest_common
from featcircuits.tasks.encoding import Encoder, Entry, entries_of
from featcircuits.tasks.examples import Example, check_example
from featcircuits.tasks.holdout import parted
from featcircuits.tasks.jsonl import read_lines
from featcircuits.tasks.metrics import NEEDS_CORRUPTED_ANSWERS, READS_ANSWERS_ALONE, Answers, metric_named


@dataclass(frozen=True, eq=False)
class Batch:
    """A slice of a task as tensors. `index` [row]: the examples' numbers in the task."""

    index: Tensor
    clean: Tokens
    corrupted: Tokens | None
    answers: Answers
    places: Tensor
    """[row, slot]: the place in the circuit of each token (see `Task.places`), -1 at padding."""

    def to(self, device: torch.device) -> Batch:
        moved = Answers(self.answers.clean.to(device), self.answers.corrupted.to(device))
        corrupted = None if self.corrupted is None else self.corrupted.to(device)
        return Batch(self.index, self.clean.to(device), corrupted, moved, self.places.to(device))

    def narrowed(self, metric: str) -> Batch:
        """Where a metric reads the answers' logits alone: runs compute only those, and answers count them."""
        if metric not in READS_ANSWERS_ALONE:
            return self
        every = torch.cat([self.answers.clean.flatten(), self.answers.corrupted.flatten()])
        wanted = every[every >= 0].unique()
        first, second = (
            torch.where(ids < 0, ids, torch.searchsorted(wanted, ids.clamp(min=0)))
            for ids in (self.answers.clean, self.answers.corrupted)
        )
        corrupted = None if self.corrupted is None else replace(self.corrupted, vocabulary=wanted)
        clean = replace(self.clean, vocabulary=wanted)
        return Batch(self.index, clean, corrupted, Answers(first, second), self.places)


class Layout(NamedTuple):
    """What the parts of a task share with the whole: its roles, and the places that its prompts have in common."""

    roles: tuple[str, ...]
    common: str


@dataclass(frozen=True)
class Task:
    """Examples and the metric they are judged by.

    `aggregate` says what becomes of positions: "none" keeps each token position as a node of its
    own (all prompts must then be equally long), "sum" adds positions up, "role" adds up the
    positions of each named span, so that prompts of different lengths share a circuit.
    """

    examples: tuple[Example, ...]
    metric: str = "logit_difference"
    aggregate: str = "none"
    pad_id: int = 0
    padding_side: str = "right"
    name: str = "task"
    layout: Layout | None = None
    """Of the task that this one is a part of; None for its own."""
    tokenizer: str | None = None
    """The fingerprint of the tokenizer whose ids these are, where it is known"""
    keep_wrong: bool = False
    """Whether results are computed even where the model does not do the task (`featcircuits.tasks.behaviour`)."""

    def __post_init__(self) -> None:
        check_name(self.name, "task name")
        metric_named(self.metric)
        if self.aggregate not in AGGREGATES:
            raise InputError(f"unknown aggregate {self.aggregate!r}; known: {', '.join(AGGREGATES)}")
        if self.padding_side not in ("left", "right"):
            raise InputError(f"padding_side is {self.padding_side!r}; it must be 'left' or 'right'")
        if not self.examples:
            raise InputError(f"{self.name}: no examples")
        for number, example in enumerate(self.examples):
            try:
                check_example(example)
                _check_metric(example, self.metric)
            except InputError as error:
                raise InputError(f"{self.name}, example {number + 1}: {error}") from None

    @classmethod
    def from_jsonl(cls, path: str | Path, tokenizer: Any, *, prepend: str = "", **options: Any) -> Task:
        """Read pairs or single prompts, one JSON object per line (docs/tasks.md).

        `prepend`: text that stands in front of every prompt, mostly a special token such as "<|endoftext|>"; a
        line's own wins. Other options are the task's fields. Raises `InputError` naming file, line and remedy.
        """
        path = Path(path)
        return cls.from_entries(
            path, entries_of(path, read_lines(path), Encoder.of(tokenizer), prepend), tokenizer, **options
        )

    @classmethod
    def from_entries(cls, path: Path, entries: Sequence[Entry], tokenizer: Any, **options: Any) -> Task:
        """From the lines of a file that are tokenised already."""
        pad_id = tokenizer.pad_token_id
        if pad_id is None:
            pad_id = tokenizer.eos_token_id or 0
        examples = tuple(entry.example for entry in entries)
        if "metric" not in options and not any(e.corrupted_answers for e in examples):
            options["metric"] = "log_probability"
        usual = {"pad_id": pad_id, "name": made_name(path.stem), "tokenizer": tokenizer_fingerprint(tokenizer)}
        return cls(examples, **{**usual, **options})

    @classmethod
    def from_tokens(
        cls,
        clean_ids: Any,
        corrupted_ids: Any | None,
        clean_answers: Any,
        corrupted_answers: Any | None = None,
        **options: Any,
    ) -> Task:
        """From token ids: sequences or tensors [example, position], lists of lists where lengths differ.

        Answers are one id an example, or a sequence of ids (a set of answers) each.
        """
        clean = _rows(clean_ids)
        count = len(clean)
        corrupted = [None] * count if corrupted_ids is None else _rows(corrupted_ids)
        first = _answer_sets(clean_answers)
        second = [()] * count if corrupted_answers is None else _answer_sets(corrupted_answers)
        if not count == len(corrupted) == len(first) == len(second):
            raise InputError(
                f"token task: {count} clean prompts, {len(corrupted)} corrupted prompts, {len(first)} clean and "
                f"{len(second)} corrupted answers; give as many of each"
            )
        examples = (Example(*parts) for parts in zip(clean, corrupted, first, second, strict=True))
        return cls(tuple(examples), **options)

    def __len__(self) -> int:
        return len(self.examples)

    def with_options(self, **options: Any) -> Task:
        """The same examples under another metric, aggregate or name."""
        return replace(self, **options)

    def take(self, count: int) -> Task:
        """The first `count` examples."""
        if not 0 < count <= len(self):
            raise InputError(f"{self.name}: {count} examples were asked for; it has {len(self)}")
        return replace(self, examples=self.examples[:count])

    def part(self, examples: Sequence[Example]) -> Task:
        """Some of the examples, at the places that all of them have."""
        return replace(self, examples=tuple(examples), layout=Layout(self.role_names, self.common))

    def only(self, numbers: Iterable[int]) -> Task:
        """The examples of these numbers, counted from 0, in the order given."""
        return self.part([self.examples[number] for number in numbers])

    def split(self, share: float, seed: int = 0) -> tuple[Task, Task]:
        """(the rest, about `share` of the examples held out), drawn by `seed`, so that no prompt is in both."""
        kept, held = parted(self.examples, share, seed)
        return self.only(kept), self.only(held).with_options(name=made_name(f"{self.name} (held out)"))

    @property
    def paired(self) -> bool:
        return all(example.corrupted is not None for example in self.examples)

    @property
    def places(self) -> tuple[int | str | None, ...]:
        """The places that nodes can have: token positions, role names, or the single place None."""
        if self.aggregate == "sum":
            return (None,)
        if self.aggregate == "none":
            return tuple(range(self.longest))
        return (*self.role_names, OTHER)

    @property
    def role_names(self) -> tuple[str, ...]:
        whole = () if self.layout is None else self.layout.roles
        return tuple(dict.fromkeys((*whole, *(role for example in self.examples for role, _ in example.roles))))

    @property
    def common(self) -> str:
        """The finest places that the prompts have in common (`featcircuits.tasks.alignment.finest_common`)."""
        return finest_common(self.examples) if self.layout is None else self.layout.common

    @property
    def longest(self) -> int:
        return max(len(example.clean) for example in self.examples)

    @cached_property
    def largest_id(self) -> int:
        """The largest token id in prompts and answers."""
        return max(
            max(part)
            for e in self.examples
            for part in (e.clean, e.corrupted, e.clean_answers, e.corrupted_answers)
            if part
        )

    @property
    def padded(self) -> bool:
        """Whether prompts differ in length, so that batches pad some of them."""
        return len({len(example.clean) for example in self.examples}) > 1

    def check_places(self) -> None:
        """Refuse examples whose positions do not line up under this task's `aggregate`."""
        lengths = sorted({len(example.clean) for example in self.examples})
        if self.aggregate == "none" and len(lengths) > 1:
            raise InputError(
                f"{self.name}: prompts of {lengths[0]} to {lengths[-1]} tokens have no common positions; "
                "use aggregate='role' (name the spans in the task file) or aggregate='sum'"
            )
        if self.aggregate == "role" and not self.role_names:
            raise InputError(f"{self.name}: aggregate='role', but no example names a role; add 'roles' to the examples")

    def batches(self, size: int) -> Iterator[Batch]:
        """Consecutive batches of at most `size` examples, padded to the task's longest prompt."""
        for number in range(self.count_batches(size)):
            yield self.nth_batch(size, number)

    def nth_batch(self, size: int, number: int) -> Batch:
        """One of these batches."""
        return self.batch(range(number * size, min((number + 1) * size, len(self))))

    def count_batches(self, size: int) -> int:
        """How many batches of at most `size` examples there are."""
        check_number("batch_size", size, BATCHES)
        return -(-len(self) // size)

    def batch(self, numbers: Sequence[int]) -> Batch:
        examples = [self.examples[number] for number in numbers]
        pad = self._padder(examples)
        clean = pad([example.clean for example in examples])
        twins = [example.corrupted for example in examples if example.corrupted is not None]
        return Batch(
            index=torch.tensor(list(numbers)),
            clean=clean,
            corrupted=pad(twins) if len(twins) == len(examples) else None,
            answers=Answers(
                _padded([example.clean_answers for example in examples]),
                _padded([example.corrupted_answers for example in examples]),
            ),
            places=self._places(examples, clean),
        )

    def _padder(self, examples: Sequence[Example]) -> Callable[[Sequence[Sequence[int]]], Tokens]:
        width = max(len(example.clean) for example in examples)
        return lambda prompts: Tokens.pad(prompts, self.pad_id, self.padding_side, width)

    def _places(self, examples: Sequence[Example], clean: Tokens) -> Tensor:
        if self.aggregate == "none":
            places = clean.positions
        elif self.aggregate == "sum":
            places = torch.zeros_like(clean.ids)
        else:
            places = by_role(examples, clean, self.role_names)
        return places.masked_fill(clean.mask == 0, -1)

    @property
    def sha256(self) -> str:
        """A hash of the examples and the metric: what a result was computed on."""
        rows = [(e.clean, e.corrupted, e.clean_answers, e.corrupted_answers, e.roles) for e in self.examples]
        return hashlib.sha256(json.dumps([self.metric, rows]).encode()).hexdigest()


def _check_metric(example: Example, metric: str) -> None:
    if metric in NEEDS_CORRUPTED_ANSWERS and not example.corrupted_answers:
        raise InputError(
            f"metric {metric!r} compares with a corrupted answer and there is none; "
            "give one, or use metric='log_probability'"
        )


def _rows(ids: Any) -> list[tuple[int, ...]]:
    try:
        return [tuple(index(token) for token in row) for row in ids]
    except TypeError:
        raise InputError("prompts are given as [example, position]: one sequence of token ids for each") from None


def _answer_sets(answers: Any) -> list[tuple[int, ...]]:
    try:
        return [tuple(map(index, row)) if _is_row(row) else (index(row),) for row in answers]
    except TypeError:
        raise InputError("answers are given as one token id an example, or a sequence of ids each") from None


def _is_row(answer: Any) -> bool:
    """A set of answers rather than one; tensors and arrays tell by their dimensions."""
    return isinstance(answer, Sequence) or getattr(answer, "ndim", 0) > 0


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows]).reshape(len(rows), width)
