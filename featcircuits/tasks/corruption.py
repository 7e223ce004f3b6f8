"""Corruption of single prompts: symmetric token replacement, and noise on the embeddings.

Replacing words by counterparts (Zhang & Nanda 2024) keeps the corrupted prompt in distribution, so
prefer it. Gaussian noise (Meng et al. 2022) needs no counterparts. It is a baseline of
node effects (`baseline="noise"`), since a noised prompt has no tokens of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featcircuits.errors import InputError, shortened
from featcircuits.inputs.arguments import expect
from featcircuits.tasks.encoding import unknown_id
from featcircuits.tasks.examples import Example
from featcircuits.tasks.task import Batch, Task


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the embedding of every token, or of one role's tokens.

    Its standard deviation is `scale` times that of the entries of the prompt's embeddings. Each
    example has noise of its own, which does not depend on the batch.
    """

    scale: float = 3.0
    seed: int = 0
    role: str | None = None

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"noise scale is {self.scale}; it must be above 0")

    def check(self, task: Task) -> None:
        """Raise `InputError` for a role that the task does not have."""
        if self.role is None:
            return
        if task.aggregate != "role":
            raise InputError(f"noise on role {self.role!r} needs a task with aggregate='role'")
        if self.role not in task.role_names:
            raise InputError(f"{task.name} has no role {self.role!r}; it has {', '.join(task.role_names)}")

    def of(self, task: Task, batch: Batch, x: Tensor) -> Tensor:
        """The noise for the embeddings x [example, slot, width] of a batch."""
        real = (batch.clean.mask > 0)[..., None]
        if self.role is not None:
            real = real & (batch.places == task.places.index(self.role))[..., None]
        drawn = torch.zeros(x.shape, dtype=torch.float64)
        for row, (number, mask) in enumerate(zip(batch.index.tolist(), batch.clean.mask.cpu() > 0, strict=True)):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            noise = torch.randn(int(mask.sum()), x.shape[-1], generator=generator, dtype=torch.float64)
            drawn[row, mask] = noise * x[row, mask.to(x.device)].double().std().cpu() * self.scale
        return drawn.to(x.device, x.dtype) * real


def symmetric_replacement(task: Task, tokenizer: Any, words: Iterable[tuple[str, str]]) -> Task:
    """Pair every prompt with a twin in which the two words of each couple are swapped.

    For "Alice" and "Bob": where the clean prompt has one, the corrupted prompt has the other, and so do
    the answers. Words are matched as tokens, at the start of a text and after a space. The two words of a
    couple must have the same number of tokens. Raises `InputError` for couples that do not, and for prompts
    with none of the words.
    """
    expect("task", task, Task)
    table = _table(tokenizer, words)
    examples = []
    for number, example in enumerate(task.examples):
        corrupted = _replaced(example.clean, table)
        if corrupted == example.clean:
            raise InputError(f"{task.name}, example {number + 1}: the prompt holds none of the words to replace")
        examples.append(_twin(example, corrupted, table))
    return replace(task, examples=tuple(examples))


Table = Mapping[tuple[int, ...], tuple[int, ...]]


def _table(tokenizer: Any, words: Iterable[tuple[str, str]]) -> Table:
    table: dict[tuple[int, ...], tuple[int, ...]] = {}
    for couple in words:
        for space in ("", " "):
            one, other = (tuple(tokenizer(space + word, add_special_tokens=False)["input_ids"]) for word in couple)
            if len(one) != len(other):
                raise InputError(
                    f"{couple[0]!r} has {len(one)} tokens and {couple[1]!r} {len(other)}; "
                    "give two words with the same number of tokens"
                )
            for word, ids in zip(couple, (one, other), strict=True):
                if not ids or unknown_id(tokenizer) in ids:
                    raise InputError(f"{shortened(word)} is not in the tokenizer's vocabulary; give words that are")
            for source, target in ((one, other), (other, one)):
                if table.setdefault(source, target) != target:
                    raise InputError(f"{couple[0]!r} or {couple[1]!r} is in two couples; give each word once")
    return table


def _replaced(ids: tuple[int, ...], table: Table) -> tuple[int, ...]:
    """The ids with words replaced from left to right, the longest words first, each token at most once."""
    sizes, found, position = sorted({len(word) for word in table}, reverse=True), [], 0
    while position < len(ids):
        word = next((ids[position : position + n] for n in sizes if ids[position : position + n] in table), None)
        found += table[word] if word else ids[position : position + 1]
        position += len(word or (0,))
    return tuple(found)


def _twin(example: Example, corrupted: tuple[int, ...], table: Table) -> Example:
    answers = tuple(token for answer in example.clean_answers for token in table.get((answer,), (answer,)))
    corrupted_answers = example.corrupted_answers or (answers if answers != example.clean_answers else ())
    return replace(example, corrupted=corrupted, corrupted_answers=corrupted_answers)
