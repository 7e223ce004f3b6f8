"""A reading as tables, some features of one site at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from featcircuits.circuit.circuit import NodeScore
from featcircuits.dossiers.contexts import windows_of
from featcircuits.dossiers.default_label import default_label
from featcircuits.dossiers.histogram import quantile
from featcircuits.dossiers.options import Options
from featcircuits.dossiers.reading import Reading
from featcircuits.dossiers.records import TokenEffect, TokenShare, quantile_columns
from featcircuits.dossiers.related import Related, coactive, nearest, next_sites
from featcircuits.dossiers.schema import FEATURES, TASK
from featcircuits.dossiers.tally import Tally
from featcircuits.dossiers.task_values import TaskValues
from featcircuits.dossiers.text import Text
from featcircuits.dossiers.writes import LogitEffects, logit_effects, stream_rows
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel

AT_ONCE = 1024
"""Features of a group, which is read and written as one."""


class Group(NamedTuple):
    """Some features of a site, a row group of each table."""

    features: pa.Table
    contexts: pa.Table
    task: pa.Table


@dataclass(frozen=True)
class OnTask:
    """What is known of the features on a task: values of all, and the effects of the nodes of a circuit."""

    places: Sequence[Place]
    values: Mapping[Site, TaskValues]
    effects: Mapping[Node, NodeScore]


@dataclass(frozen=True)
class Findings:
    """All that the tables are made of."""

    spliced: SplicedModel
    text: Text
    options: Options
    reading: Reading
    piece: Callable[[int], str]
    on_task: OnTask | None = None


def groups(found: Findings, progress: Progress = silent) -> Iterator[Group]:
    """In the order of sites, and of features within a site."""
    together = coactive(found.reading.tallies, found.reading.sampled, found.options.coactive)
    parts = [
        (site, range(start, min(start + AT_ONCE, len(tally.ids))))
        for site, tally in found.reading.tallies.items()
        for start in range(0, len(tally.ids), AT_ONCE)
    ]
    for site, some in progress(parts, "dossiers", len(parts)):
        yield _group(found, site, some, together[site][some.start : some.stop])


def _group(found: Findings, site: Site, some: range, together: list[list[Related]]) -> Group:
    tally, options = found.reading.tallies[site], found.options
    ids = tally.ids[some.start : some.stop]
    scale = tally.scale / tally.n_tokens if tally.scale else 1.0
    written = stream_rows(found.spliced, found.reading.norms, site, ids, scale)
    effects = logit_effects(found.spliced, found.reading.norms, written, options.logits)
    near = [
        nearest(found.spliced, found.reading.norms, site, ids, others, options.neighbours)
        for others in ([site], next_sites(found.spliced.sites, site))
    ]
    windows = windows_of(str(site), tally, some, found.text, options, found.piece)
    text_shares = found.reading.token_counts / found.reading.n_tokens
    rows = []
    for i, (n, number) in enumerate(zip(some, ids.tolist(), strict=True)):
        tokens = [
            TokenShare(id, found.piece(id), share, float(text_shares[id]))
            for id, share in tally.mass.largest(n, options.tokens)
        ]
        up, down = _tokens_moved(effects, i, found.piece)
        row = {"site": str(site), "feature": number, **_figures(tally, n)}
        row |= {"label": default_label(tokens, windows.strongest[n], up, down, row["mean"])}
        row |= {"top_tokens": [one._asdict() for one in tokens]}
        row |= {"promoted": [one._asdict() for one in up], "suppressed": [one._asdict() for one in down]}
        row |= {"neighbours": _related(near[0][i], "cosine"), "next_layer": _related(near[1][i], "cosine")}
        rows.append(row | {"coactive": _related(together[i], "phi")})
    task = [] if found.on_task is None else list(_task_rows(found.on_task, site, some, ids.tolist()))
    return Group(pa.Table.from_pylist(rows, FEATURES), windows.table(), pa.Table.from_pylist(task, TASK))


def _figures(tally: Tally, n: int) -> dict[str, Any]:
    """Of the feature with this number in the tally."""
    counts = tally.histogram[n]
    active, (filled,) = int(counts.sum()), counts.nonzero()
    start, end = (int(filled[0]), int(filled[-1]) + 1) if active else (0, 0)
    quantiles = {column: quantile(counts, share) for share, column in quantile_columns().items()}
    return {
        "n_tokens": tally.n_tokens,
        "n_active": active,
        "density": active / tally.n_tokens if tally.n_tokens else 0.0,
        "mean": tally.mass.total[n] / active if active else None,
        "max": abs(float(tally.top.activations[n, 0, tally.options.before])) if active else None,
        "negative": tally.negative[n] / active if active else None,
        **{column: value if active else None for column, value in quantiles.items()},
        "histogram_start": start,
        "histogram": counts[start:end].tolist(),
    }


def _tokens_moved(
    effects: LogitEffects, i: int, piece: Callable[[int], str]
) -> tuple[list[TokenEffect], list[TokenEffect]]:
    up = zip(effects.promoted[i].tolist(), effects.promoted_by[i].tolist(), strict=True)
    down = zip(effects.suppressed[i].tolist(), effects.suppressed_by[i].tolist(), strict=True)
    both = [[TokenEffect(id, piece(id), value) for id, value in side] for side in (up, down)]
    return both[0], both[1]


def _related(rows: list[Related], what: str) -> list[dict[str, Any]]:
    return [{"site": str(one.site), "feature": one.feature, what: one.value} for one in rows]


def _task_rows(on_task: OnTask, site: Site, some: range, ids: list[int]) -> Iterator[dict[str, Any]]:
    """Of places where a feature has a value on either side, or an effect."""
    values = on_task.values[site]._asdict()
    for n, feature in zip(some, ids, strict=True):
        for number, place in enumerate(on_task.places):
            own = {name: None if rows is None else float(rows[number, n]) for name, rows in values.items()}
            score = on_task.effects.get(Node(site, feature, place))
            if score or any(own.values()):
                error = None if score is None or np.isnan(score.standard_error) else score.standard_error
                effect = {"effect": None if score is None else score.effect, "standard_error": error}
                yield {
                    "site": str(site), "feature": feature, "place": "" if place is None else str(place), **own, **effect
                }  # fmt: skip
