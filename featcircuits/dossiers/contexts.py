"""The windows of features as columns: which document, which tokens, which activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featcircuits.dossiers.best import NOTHING, Best
from featcircuits.dossiers.histogram import bins_of
from featcircuits.dossiers.options import Options
from featcircuits.dossiers.schema import CONTEXTS
from featcircuits.dossiers.tally import Tally
from featcircuits.dossiers.text import POSITIONS, Text

KINDS = ("top", "sample")


@dataclass
class Windows:
    """Columns of the table of contexts; of each feature's strongest, the token before (None at a start) and its own."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in CONTEXTS.names})
    strongest: dict[int, list[tuple[str | None, str]]] = field(default_factory=dict)

    def add(self, *values: Any) -> None:
        """A row, in the order of the columns."""
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def table(self) -> pa.Table:
        arrays = [pa.array(self.columns[name], CONTEXTS.field(name).type) for name in CONTEXTS.names]
        return pa.Table.from_arrays(arrays, schema=CONTEXTS)


def windows_of(
    site: str, tally: Tally, features: range, text: Text, options: Options, piece: Callable[[int], str]
) -> Windows:
    """Of some of a site's features, by their number in the tally."""
    bests = {"top": tally.top, "sample": tally.drawn}
    part = slice(features.start, features.stop)
    rows = text.rows(np.concatenate([_documents(best, part) for best in bests.values()]).tolist())
    found = Windows()
    for n, number in zip(features, tally.numbers[part], strict=True):
        found.strongest[n] = []
        for kind, best in bests.items():
            ranks = _strongest_first(best, n, options)
            below = _share_below(tally.histogram[n], best.activations[n, ranks, options.before])
            for rank, share in zip(ranks.tolist(), below.tolist(), strict=True):
                document, position = divmod(int(best.place[n, rank]), POSITIONS)
                at = min(position, options.before)
                ids = list(rows[document][position - at : position + options.after + 1])
                tokens = list(map(piece, ids))
                start = options.before - at
                activations = best.activations[n, rank, start : start + len(ids)].tolist()
                if kind == "top":
                    found.strongest[n].append((tokens[at - 1] if at else None, tokens[at]))
                found.add(
                    site, number, kind, activations[at], share, document, position, at, tokens, ids,
                    [None if value != value else value for value in activations],
                )  # fmt: skip
    return found


def _documents(best: Best, part: slice) -> NDArray[np.int64]:
    return best.place[part][best.score[part] > NOTHING] // POSITIONS


def _strongest_first(best: Best, n: int, options: Options) -> NDArray[np.int64]:
    """Ranks of those that there are, by size."""
    count = int((best.score[n] > NOTHING).sum())
    return np.argsort(-np.abs(best.activations[n, :count, options.before]), kind="stable")


def _share_below(counts: NDArray[np.int64], activations: NDArray) -> NDArray[np.float64]:
    """The share of a feature's active tokens that lie in lower bins than each activation."""
    before = np.concatenate([[0], counts.cumsum()])
    return before[bins_of(np.abs(activations))] / max(1, before[-1])
