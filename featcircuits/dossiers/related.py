"""Features that resemble a feature: by what they write, and by when they are active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from torch import Tensor

from featcircuits.dossiers.tally import Tally
from featcircuits.dossiers.writes import Norms, stream_rows
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel

NUMBERS = 1 << 24
"""Cosines that are computed at once."""
LEAST_TOGETHER = 5
"""Sampled tokens that a feature must be active on for its co-activation to mean anything."""
_COLUMNS = 1024


class Related(NamedTuple):
    """A feature and how nearly it is the same: a cosine, or phi."""

    site: Site
    feature: int
    value: float


@torch.no_grad()
def nearest(
    spliced: SplicedModel, norms: Norms, site: Site, ids: Tensor, others: Sequence[Site], count: int
) -> list[list[Related]]:
    """For each feature the `count` features of `others` whose rows in the stream have the largest cosine with its own.

    All features of those sites are looked at; the feature itself is none of its neighbours.
    """
    if not count or not others:
        return [[] for _ in ids]
    rows = _directions(stream_rows(spliced, norms, site, ids))
    found: list[list[Related]] = [[] for _ in ids]
    for other in others:
        every = torch.arange(spliced.dictionaries[other].n_features, device=rows.device)
        theirs = _directions(stream_rows(spliced, norms, other, every))
        size = max(1, NUMBERS // max(1, len(theirs)))
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            cosines = rows[part] @ theirs.T
            if other == site:
                cosines[torch.arange(len(cosines), device=ids.device), ids[part]] = -torch.inf
            best = cosines.topk(min(count, len(theirs) - (other == site)))
            for row, values, numbers in zip(found[part], best.values.tolist(), best.indices.tolist(), strict=True):
                row += (Related(other, n, v) for n, v in zip(numbers, values, strict=True))
    return [sorted(row, key=lambda one: -one.value)[:count] for row in found]


def _directions(rows: Tensor) -> Tensor:
    """Of length 1; a row of zeros stays."""
    return torch.nn.functional.normalize(rows, dim=-1)


def next_sites(sites: Sequence[Site], site: Site) -> list[Site]:
    """Those of the next layer."""
    return [other for other in sites if other.layer == site.layer + 1]


def coactive(tallies: Mapping[Site, Tally], sampled: int, count: int) -> dict[Site, list[list[Related]]]:
    """For each feature the `count` features, of any site, with the largest phi over the sampled tokens.

    `phi = (n n_ab - n_a n_b) / sqrt(n_a (n - n_a) n_b (n - n_b))` for n tokens of which a is active on n_a, b on n_b
    and both on n_ab. A token that is a sink at a site counts as one where its features are not active.
    """
    if not count:
        return {site: [[] for _ in tally.ids] for site, tally in tallies.items()}
    sites = list(tallies)
    first = np.concatenate([[0], np.cumsum([len(tallies[site].ids) for site in sites])])
    active = _matrix(tallies, first)
    n = np.asarray(active.sum(0)).ravel()
    numbers = np.flatnonzero((n >= LEAST_TOGETHER) & (n < sampled))
    active = active[:, numbers]
    found: list[list[tuple[int, float]]] = [[] for _ in range(int(first[-1]))]
    for start in range(0, len(numbers), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        both = (active[:, part].T @ active).tocoo()
        rows, columns = numbers[part][both.row], numbers[both.col]
        phi = _phi(sampled, n[rows], n[columns], both.data)
        _add_largest(found, rows, columns, phi, count)
    return {site: [_named(row, sites, first, tallies) for row in found[first[i] : first[i + 1]]]
            for i, site in enumerate(sites)}  # fmt: skip


def _matrix(tallies: Mapping[Site, Tally], first: NDArray[np.int64]) -> csc_matrix:
    """[token, feature]: 1 where active."""
    kept = [
        (part.place, part.feature.astype(np.int64) + start)
        for tally, start in zip(tallies.values(), first, strict=False)
        if not tally.crowded
        for part in tally.together
    ]
    places = np.concatenate([np.zeros(0, np.int64), *(place for place, _ in kept)])
    features = np.concatenate([np.zeros(0, np.int64), *(feature for _, feature in kept)])
    distinct, token = np.unique(places, return_inverse=True)
    ones = np.ones(len(token), np.float64)
    return csc_matrix((ones, (token, features)), shape=(max(1, len(distinct)), int(first[-1])))


def _phi(n: int, a: NDArray, b: NDArray, both: NDArray) -> NDArray[np.float64]:
    return (n * both - a * b) / np.sqrt(a * (n - a) * b * (n - b))


def _add_largest(
    found: list[list[tuple[int, float]]], rows: NDArray, columns: NDArray, phi: NDArray, count: int
) -> None:
    """The largest of each row, but for the feature itself and what is not above 0."""
    kept = (rows != columns) & (phi > 0)
    rows, columns, phi = rows[kept], columns[kept], phi[kept]
    order = np.lexsort((columns, -phi, rows))
    rows, columns, phi = rows[order], columns[order], phi[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    for row, column, value in zip(*(values[rank < count].tolist() for values in (rows, columns, phi)), strict=True):
        found[row].append((column, value))


def _named(
    row: list[tuple[int, float]], sites: Sequence[Site], first: NDArray[np.int64], tallies: Mapping[Site, Tally]
) -> list[Related]:
    at = [(int(np.searchsorted(first, number, "right")) - 1, number, value) for number, value in row]
    return [Related(sites[i], int(tallies[sites[i]].numbers[number - first[i]]), value) for i, number, value in at]
