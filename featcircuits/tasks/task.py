"""Tasks: examples of a behaviour, their answers, and the places of their tokens in a circuit."""

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
from featcircuits.tasks.metrics import Answers, Metric
from featcircuits.tasks.table import METRICS


@dataclass(frozen=True, eq=False)
class Batch:
    """A slice of a task as tensors. `index` [row]: the examples' indices in the task."""

    index: Tensor
    clean: Tokens
    corrupted: Tokens | None
    answers: Answers
    places: Tensor
    """The index of each token's place (see `Task.places`) [row, slot], -1 at padding."""

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        moved = Answers(self.answers.clean.to(device), self.answers.corrupted.to(device))
        corrupted = None if self.corrupted is None else self.corrupted.to(device)
        return Batch(self.index, self.clean.to(device), corrupted, moved, self.places.to(device))

    def narrowed(self, metric: Metric) -> Batch:
        """For a metric that reads only the answers' logits: runs compute only those, and answers index them."""
        if not metric.reads_answers_alone:
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
    """What parts of a task share with the whole task: its roles, and the places that its prompts have in common."""

    roles: tuple[str, ...]
    common: str


@dataclass(frozen=True)
class Task:
    """Examples of a behaviour, and the metric that measures it.

    `aggregate` says how positions become places of nodes: "none" keeps every token position apart (all prompts
    must then have the same length), "sum" adds up all positions, "role" adds up the
    positions of each named span, so that prompts of different lengths share a circuit.
    """

    examples: tuple[Example, ...]
    metric: str | Metric = "logit_difference"
    aggregate: str = "none"
    pad_id: int = 0
    padding_side: str = "right"
    name: str = "task"
    layout: Layout | None = None
    """The layout of the task that this one is a part of; None for its own."""
    tokenizer: str | None = None
    """The fingerprint of the tokenizer that made the ids, if it is known."""
    keep_wrong: bool = False
    """Whether to compute results even if the model answers wrongly (`featcircuits.tasks.behaviour`)."""

    def __post_init__(self) -> None:
        check_name(self.name, "task name")
        F = self.F
        if self.aggregate not in AGGREGATES:
            raise InputError(f"unknown aggregate {self.aggregate!r}; known: {', '.join(AGGREGATES)}")
        if self.padding_side not in ("left", "right"):
            raise InputError(f"padding_side is {self.padding_side!r}; it must be 'left' or 'right'")
        if not self.examples:
            raise InputError(f"{self.name}: no examples")
        for number, example in enumerate(self.examples):
            try:
                check_example(example)
                F.check(example)
            except InputError as error:
                raise InputError(f"{self.name}, example {number + 1}: {error}") from None

    @classmethod
    def from_jsonl(cls, path: str | Path, tokenizer: Any, *, prepend: str = "", **options: Any) -> Task:
        """Read pairs or single prompts, one JSON object per line (docs/tasks.md).

        `prepend`: text in front of every prompt, usually a special token such as "<|endoftext|>"; a line's own value
        wins. Other options are the task's fields. Raises `InputError` that names file, line and remedy.
        """
        path = Path(path)
        return cls.from_entries(
            path, entries_of(path, read_lines(path), Encoder.of(tokenizer), prepend), tokenizer, **options
        )

    @classmethod
    def from_entries(cls, path: Path, entries: Sequence[Entry], tokenizer: Any, **options: Any) -> Task:
        """A task from a file's lines, already tokenised."""
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
        """A task from token ids: sequences or tensors [example, position], or lists of lists if lengths differ.

        Answers are one id per example, or one sequence of ids (a set of answers) per example.
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
        """Some of the examples, with the places of the whole task."""
        return replace(self, examples=tuple(examples), layout=Layout(self.role_names, self.common))

    def only(self, numbers: Iterable[int]) -> Task:
        """The examples with these indices, counted from 0, in this order."""
        return self.part([self.examples[number] for number in numbers])

    def split(self, share: float, seed: int = 0) -> tuple[Task, Task]:
        """(the rest, the held-out part with about `share` of the examples), drawn by `seed`; no prompt is in both."""
        kept, held = parted(self.examples, share, seed)
        return self.only(kept), self.only(held).with_options(name=made_name(f"{self.name} (held out)"))

    @property
    def F(self) -> Metric:
        """The metric as a value: `task.F(logits, answers)` is F of each row."""
        return METRICS.parse(self.metric)

    @property
    def paired(self) -> bool:
        """Whether every example is a pair."""
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
        """The names of all roles, in order of appearance."""
        whole = () if self.layout is None else self.layout.roles
        return tuple(dict.fromkeys((*whole, *(role for example in self.examples for role, _ in example.roles))))

    @property
    def common(self) -> str:
        """The finest places that the prompts have in common (`featcircuits.tasks.alignment.finest_common`)."""
        return finest_common(self.examples) if self.layout is None else self.layout.common

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt."""
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
        """Raise `InputError` if the examples' positions do not fit this task's `aggregate`."""
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
        """The batch with this index among those of `batches`."""
        return self.batch(range(number * size, min((number + 1) * size, len(self))))

    def count_batches(self, size: int) -> int:
        """How many batches of at most `size` examples there are."""
        check_number("batch_size", size, BATCHES)
        return -(-len(self) // size)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The examples with these indices as one batch, padded to the task's longest prompt."""
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
        """A hash of the examples and the metric, which identifies what a result was computed on."""
        rows = [(e.clean, e.corrupted, e.clean_answers, e.corrupted_answers, e.roles) for e in self.examples]
        return hashlib.sha256(json.dumps([str(self.metric), rows]).encode()).hexdigest()


def _rows(ids: Any) -> list[tuple[int, ...]]:
    try:
        return [tuple(index(token) for token in row) for row in ids]
    except TypeError:
        raise InputError("prompts are given as [example, position]: one sequence of token ids for each") from None


def _answer_sets(answers: Any) -> list[tuple[int, ...]]:
    try:
        return [tuple(map(index, row)) if _is_row(row) else (index(row),) for row in answers]
    except TypeError:
        raise InputError("answers are given as one token id per example, or one sequence of ids per example") from None


def _is_row(answer: Any) -> bool:
    """Whether this is a set of answers rather than one answer; for tensors and arrays their dimensions tell."""
    return isinstance(answer, Sequence) or getattr(answer, "ndim", 0) > 0


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows]).reshape(len(rows), width)
