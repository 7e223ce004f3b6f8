"""Tokens as the text that they stand for in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


def pieces_of(tokenizer: Any) -> Callable[[int], str]:
    """Id -> what the token adds to a text that it stands in, a space before a word included.

    Without a tokenizer `<7>` for id 7. What cannot be printed is written out, a line break as `\\n`.
    """

    @cache
    def piece(id: int) -> str:
        if tokenizer is None:
            return f"<{id}>"
        options = {"clean_up_tokenization_spaces": False}
        alone = tokenizer.decode([id], **options)
        text = tokenizer.decode([id, id], **options)[len(alone) :]
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text or alone)

    return piece
