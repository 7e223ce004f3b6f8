"""What back-patching found: right answers and F of every cell of the grid, and of its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcircuits.files.plain import plain
from featcircuits.files.writing import write_json

FORMAT, VERSION = "featcircuits-back-patching", 1

OWN_STATES, OTHERS, RANDOM = "own", "others", "random"
"""What is put in: the prompt's own state, another example's, or a random vector of the same norm."""


@dataclass(frozen=True)
class Cell:
    """One source layer, target layer and place; `right` and `F`: what is put in -> one value per example."""

    source: int
    target: int
    place: str
    right: Mapping[str, tuple[bool, ...]]
    F: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Score:
    """What a cell, or the whole grid, does to answers, as shares (NaN where there are no such answers).

    `fixed`: of the answers that were wrong, those that become right; `broken`: of those that were right, those that
    become wrong. `net`: the change of the share of right answers.
    """

    fixed: float
    broken: float
    net: float

    def to_json(self) -> dict[str, Any]:
        """The shares as plain JSON values."""
        return plain(asdict(self))


@dataclass(frozen=True)
class BackPatched:
    """Back-patching over a grid. `right`, `F`: of the unedited model, one value per example."""

    task: str
    metric: str
    right: tuple[bool, ...]
    F: tuple[float, ...]
    cells: tuple[Cell, ...]

    def score(self, cell: Cell, put: str = OWN_STATES) -> Score:
        """What one cell does to the answers."""
        return _score(self.right, cell.right[put])

    def best(self, put: str = OWN_STATES) -> Cell:
        """The one cell with the most right answers, chosen on these examples; the first of several."""
        return max(self.cells, key=lambda cell: sum(cell.right[put]))

    def any_cell(self, put: str = OWN_STATES) -> Score:
        """The best of the grid for each example, as published: wrong answers that some cell makes right.

        `broken`: right answers that some cell makes wrong. `net` is the most that choosing a cell for each example
        by its answer could gain, so it is at least 0 for any states, random ones too. Compare it with the controls'.
        """
        changing = [cell.right[put] for cell in self.cells if cell.source != cell.target]
        some = [was or any(found[n] for found in changing) for n, was in enumerate(self.right)]
        every = [was and all(found[n] for found in changing) for n, was in enumerate(self.right)]
        return Score(_score(self.right, some).fixed, _score(self.right, every).broken, _score(self.right, some).net)

    def to_json(self) -> dict[str, Any]:
        """The grid as plain JSON values."""
        return plain({"format": FORMAT, "version": VERSION, **asdict(self)})

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the grid as JSON; raises `InputError` if the file exists, unless `overwrite`."""
        write_json(path, self.to_json(), overwrite=overwrite)


def _score(before: Sequence[bool], after: Sequence[bool]) -> Score:
    pairs = list(zip(before, after, strict=True))
    return Score(
        _share([now for was, now in pairs if not was]),
        _share([not now for was, now in pairs if was]),
        (sum(after) - sum(before)) / len(pairs),
    )


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else float("nan")
