"""Progress for the package's `progress` arguments: bars on a terminal, plain lines in a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from featcircuits.progress import Progress as Watcher

T = TypeVar("T")

SECONDS = 30.0
"""Seconds between a loop's lines without a terminal; it also writes one when it ends."""


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """A `progress` function that shows how far each loop is, and the time left."""
    if not console.is_terminal:
        yield partial(logged, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:

        def watch(items: Iterable[T], description: str, total: int) -> Iterable[T]:
            return bars.track(items, total=total, description=description)

        yield watch


def logged(console: Console, items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The items, with a line of progress without control characters now and then and at the end."""
    began = written = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == total or now - written >= SECONDS:
            written, took = now, now - began
            left = f", about {took / done * (total - done):.0f} s left" if done < total else ""
            line = f"{description}: {done} of {total}, {took:.0f} s{left}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
