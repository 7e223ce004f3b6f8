"""The record of a task's prompts in a manifest, and the comparison of another task's prompts with it.

A record tells whether a prompt was traced on, and which words were at a position: a circuit
with nodes at positions means nothing if the same positions hold other words.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcircuits.errors import InputError, shortened
from featcircuits.tasks.task import Task

MOST_PROMPTS = 8192
"""How many prompts a record names; if there are more, it names those with the smallest hashes, a fair sample."""
MOST_WORDS = 32
"""How many tokens a record lists per position; `MOST_TOKENS` limits all positions together."""
MOST_TOKENS = 4096
_BYTES = 6
"""Bytes of a prompt's hash: two of 10,000 prompts are confused only once in millions of tasks."""
_MOST_IDS = 1 << 31
_ENOUGH = 4
"""A token shared by all prompts counts as a part of the sentence from this many prompts on."""


def prompts_of(task: Task) -> dict[str, Any]:
    """A record of a task's prompts, as plain JSON values of bounded size.

    `hashes`: those of its prompts, clean and corrupted, in base64; `complete`: whether these are all prompts.
    `longest`: the tokens of the longest prompt. `words`: the tokens at each position, None if there are too many.
    """
    hashes = sorted(set(map(_hash, _prompts(task))))
    kept = hashes[:MOST_PROMPTS]
    return {
        "hashes": base64.b64encode(b"".join(kept)).decode(),
        "complete": len(kept) == len(hashes),
        "longest": task.longest,
        "words": _words(task, min(MOST_WORDS, MOST_TOKENS // task.longest)),
    }


@dataclass(frozen=True)
class Comparison:
    """How a task's prompts compare with those that a circuit was traced on.

    `held_out`: whether none of them was traced on; None if that is unknown. `n_seen`: how many examples
    have a clean or corrupted prompt that was traced on. `notes`: sentences for readers, the first about this.
    """

    held_out: bool | None
    n_seen: int | None
    notes: tuple[str, ...]


def compared(manifest: Mapping[str, Any], task: Task, tokenizer: Any = None) -> Comparison:
    """Compare a task with the one in a circuit's manifest; notes show tokens as the tokenizer does.

    Raises `InputError` for a record that is damaged.
    """
    traced = manifest.get("task")
    if not isinstance(traced, Mapping) or "prompts" not in traced:
        unknown = "The circuit does not record which prompts it was traced on: whether these are held out is unknown."
        return Comparison(None, None, (unknown,))
    try:
        record, name, count = traced["prompts"], str(traced["name"]), int(traced["n_examples"])
        n_seen, complete = _seen(record, task), bool(record["complete"])
        positions = _other_words(record, task, count) if traced["aggregate"] == task.aggregate else {}
        length = int(record["longest"]) if task.aggregate == "none" else task.longest
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the circuit's record of the prompts that it was traced on is damaged "
            f"({type(error).__name__}: {shortened(str(error))}); trace it again"
        ) from None
    held_out = False if n_seen else (True if complete else None)
    notes = [_on_seen(n_seen, complete, task, f"{name}, {count} examples")]
    if positions or length != task.longest:
        decode = str if tokenizer is None else lambda token: tokenizer.decode([token])
        notes.append(_on_sentences(positions, length, task, decode))
    return Comparison(held_out, n_seen, tuple(notes))


def _on_seen(n_seen: int, complete: bool, task: Task, traced: str) -> str:
    if n_seen:
        which = "these very prompts" if n_seen == len(task) else f"{n_seen} of these {len(task)} prompts"
        return f"Not held out: the circuit was traced on {which} ({traced})."
    among = "none" if complete else "none, as far as its sample of prompts tells,"
    return f"Held out: {among} of these {len(task)} prompts was traced on ({traced})."


def _on_sentences(
    words: Mapping[int, tuple[list[int], int]], length: int, task: Task, decode: Callable[[int], str]
) -> str:
    differences = []
    if length != task.longest:
        differences.append(f"prompts have {task.longest} tokens instead of {length}")
    for position, (before, now) in [*words.items()][:3]:
        others = "" if len(before) == 1 else " and others"
        differences.append(f"position {position} holds {decode(now)!r} instead of {decode(before[0])!r}{others}")
    told = ", ".join(differences)
    return f"These sentences differ from those that the circuit was traced on: {told}. {_MEANING[task.aggregate]}"


_MEANING = {
    "none": "Its nodes are at positions, which hold other words here.",
    "role": "Its nodes are at roles, whose words may have another function here.",
    "sum": "Its nodes are sums over all positions, which may add up something else here.",
}


def _prompts(task: Task) -> Iterable[Sequence[int]]:
    for example in task.examples:
        yield example.clean
        if example.corrupted is not None:
            yield example.corrupted


def _hash(prompt: Sequence[int]) -> bytes:
    return hashlib.sha256(np.asarray(prompt, dtype="<i8").tobytes()).digest()[:_BYTES]


def _words(task: Task, most: int) -> list[list[int] | None]:
    found: list[set[int]] = [set() for _ in range(task.longest)]
    for prompt in _prompts(task):
        for position, token in enumerate(prompt):
            found[position].add(token)
    return [sorted(tokens) if len(tokens) <= most else None for tokens in found]


def _seen(record: Mapping[str, Any], task: Task) -> int:
    """How many examples have a clean or corrupted prompt that a record names."""
    flat = base64.b64decode(record["hashes"], validate=True)
    known = {flat[begin : begin + _BYTES] for begin in range(0, len(flat), _BYTES)}
    return sum(
        any(_hash(prompt) in known for prompt in (example.clean, example.corrupted) if prompt is not None)
        for example in task.examples
    )


def _other_words(record: Mapping[str, Any], task: Task, count: int) -> dict[int, tuple[list[int], int]]:
    """Positions that hold one token in all prompts of one task, but mostly another in those of the other task.

    Position -> the tokens that were there and one that is there now. A few prompts may share their
    words by chance; then most of such positions must differ.
    """
    differing, fixed = {}, 0
    for position, before in enumerate(record["words"][: task.longest]):
        now = [example.clean[position] for example in task.examples if len(example.clean) > position]
        if before and not all(type(token) is int and 0 <= token < _MOST_IDS for token in before):
            raise ValueError(f"{before[0]!r} is not a token id")
        if not before or not now or 1 not in (len(before), len(set(now))):
            continue
        fixed += 1
        strange = [token for token in now if token not in before]
        if 2 * len(strange) > len(now):
            differing[position] = (before, strange[0])
    few = min(count, len(task)) < _ENOUGH
    return {} if few and 2 * len(differing) <= fixed else differing
