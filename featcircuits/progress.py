"""Progress reports of long work: a wrapper around the loop over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

Progress = Callable[[Iterable[T], str, int], Iterable[T]]
"""(items, what is being done, how many items) -> the same items, with progress reported while they are used."""


def silent(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Report nothing; this is the default of every function."""
    return items
