"""Progress bars with the time left, for the package's `progress` arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from featcircuits.progress import Progress as Watcher

T = TypeVar("T")


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """A `progress` function that draws a bar for each loop it is given."""
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
