"""Running one case within bounds of time and memory, and many of them."""

from __future__ import annotations

import random
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from featcircuits.errors import InputError
from tests.fuzz.targets import SLOW, TARGETS

SECONDS = 20.0
"""No case may take longer, on a machine however busy."""
MEGABYTES = 600.0
"""By how much the process may grow in one case."""
LONGEST_MESSAGE = 1000


class Finding(NamedTuple):
    """A case that ended otherwise than it may."""

    target: str
    seed: int
    what: str
    """The kind of exception, and where it came from"""
    details: str


class Hang(BaseException):
    """A case ran out of its time; no handler of `Exception` stops it."""


def run_case(target: str, seed: int) -> Finding | None:
    """None where the case ends in a sound result or in an `InputError` of one readable message."""
    before = _peak()
    try:
        with tempfile.TemporaryDirectory() as folder, _limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function = SLOW[target] if target in SLOW else TARGETS[target][0]
            function(random.Random(f"{target} {seed}"), Path(folder))
    except InputError as error:
        message = str(error)
        if len(message) > LONGEST_MESSAGE or "\n" in message or not message.isprintable():
            return Finding(target, seed, "message", message[:2000])
    except Hang:
        return Finding(target, seed, "hang", traceback.format_exc())
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        return Finding(target, seed, where, traceback.format_exc())
    grown = _peak() - before
    return Finding(target, seed, "memory", f"{grown:.0f} MB") if grown > MEGABYTES else None


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def end(signum: int, frame: Any) -> None:
        raise Hang

    earlier = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def planned(cases: int, seed: int, only: str | None = None) -> Iterator[tuple[str, int]]:
    """(target, seed) of so many cases, each target by its share; one in 100 of all loads a model."""
    if only is not None:
        yield from ((only, seed + number) for number in range(cases))
        return
    slow = cases // 100
    total = sum(share for _, share in TARGETS.values())
    for target, (_, share) in TARGETS.items():
        yield from ((target, seed + number) for number in range(-(-(cases - slow) * share // total)))
    for target in SLOW:
        yield from ((target, seed + number) for number in range(slow // len(SLOW)))
