"""What a suite holds, and how much of it is on this machine, without reading weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcircuits.model.sites import KINDS, Site, in_ranges
from featcircuits.suites.cache import size_expected, size_here
from featcircuits.suites.suite import Suite


@dataclass(frozen=True)
class Part:
    """A suite's sites of one kind."""

    sites: str
    """The kind and its layers, such as `resid 0-25`."""
    kinds: str
    features: str
    """The smallest and largest recorded number of features; empty if none is recorded."""
    count: int
    here: int
    """How many of the `count` sites have their weights on this machine."""
    bytes: int | None
    """The size of all weights: on disk if they are here, else as published; None if that is not recorded."""


def parts_of(suite: Suite) -> list[Part]:
    """The suite's sites grouped by kind, in forward order."""
    kinds = sorted({Site.parse(name).kind for name in suite.sites}, key=KINDS.index)
    return [_part(suite.folder, {n: r for n, r in suite.sites.items() if Site.parse(n).kind == kind}) for kind in kinds]


def _part(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> Part:
    present = [size_here(folder, record) for record in records.values()]
    sizes = [size_expected(r) if size is None else size for r, size in zip(records.values(), present, strict=True)]
    known = [size for size in sizes if size is not None]
    return Part(
        sites=in_ranges(records),
        kinds=", ".join(sorted({record.get("dictionary") or record.get("kind", "?") for record in records.values()})),
        features=_span(record["n_features"] for record in records.values() if "n_features" in record),
        count=len(records),
        here=sum(size is not None for size in present),
        bytes=sum(known) if len(known) == len(sizes) else None,
    )


def _span(numbers: Iterable[int]) -> str:
    ends = sorted(numbers)
    if not ends:
        return ""
    return str(ends[0]) if ends[0] == ends[-1] else f"{ends[0]}-{ends[-1]}"
