"""Token rows of plain text, for work without answers: training and measuring dictionaries."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError
from featcircuits.files.reading import read_text
from featcircuits.model.tokens import Tokens
from featcircuits.tasks.encoding import Encoder
from featcircuits.tasks.task import Task

Rows = list[list[int]]


MOST_BYTES = 1 << 34
"""The most bytes of a text file."""


def read_rows(path: Path, tokenizer: Any, longest: int) -> Rows:
    """One row of token ids per line that is not blank, cut to `longest` tokens.

    Raises `InputError` for a file that is missing, not UTF-8, or without text.
    """
    return token_rows(path, read_lines(path), tokenizer, longest)


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank; raises `InputError` for a file that is missing, not UTF-8, or without text."""
    lines = [line for line in read_text(path, MOST_BYTES, "text file").splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path}: there is no text in it; give one sentence or document per line")
    return lines


def token_rows(path: Path, lines: list[str], tokenizer: Any, longest: int) -> Rows:
    """The lines of a file as rows of token ids, cut to `longest` tokens; lines without a token are left out.

    A line that already begins with the BOS token does not get a second one.
    """
    if tokenizer is None:
        raise InputError(f"{path}: the model has no tokenizer to read text with")
    front = list(Encoder.of(tokenizer).front)
    rows = [once(front, ids)[:longest] for ids in tokenizer(lines)["input_ids"] if ids]
    if not rows:
        raise InputError(f"{path}: its lines hold no token of the model; give one sentence or document per line")
    return rows


def once(front: list[int], ids: list[int]) -> list[int]:
    """The ids without the tokens in front, if the text's own first tokens are the same."""
    size = len(front)
    return ids[size:] if front and ids[size : 2 * size] == front else ids


def rows_of(task: Task) -> Rows:
    """Every prompt of a task, clean and corrupted, each once."""
    prompts = [prompt for e in task.examples for prompt in (e.clean, e.corrupted) if prompt is not None]
    return [list(prompt) for prompt in dict.fromkeys(prompts)]


def token_batches(rows: Rows, size: int) -> list[Tokens]:
    """Padded batches; rows of similar length are together, so that little padding is computed."""
    ordered = sorted(rows, key=len)
    return [Tokens.pad(ordered[i : i + size], 0) for i in range(0, len(ordered), size)]


def sha256_of(rows: Rows) -> str:
    """A hash of the token ids, which identifies the text that was used."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
