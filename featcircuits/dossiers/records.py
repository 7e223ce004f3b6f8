"""What is known of one feature, as a record: frozen, with a JSON form, shown by notebooks as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from featcircuits.dossiers.histogram import QUANTILES, edges


class TokenShare(NamedTuple):
    """A token, the share of the feature's activation (the sum of its sizes) on it, and its share of the text."""

    id: int
    token: str
    share: float
    text_share: float


class TokenEffect(NamedTuple):
    """A token, and what one unit of the feature adds directly to its logit, less the mean over the vocabulary."""

    id: int
    token: str
    logit: float


class Neighbour(NamedTuple):
    """Another feature: the cosine of the two decoder rows, or phi of their being active."""

    site: str
    feature: int
    value: float

    @property
    def name(self) -> str:
        return f"{self.site}/{self.feature}"


class TaskValue(NamedTuple):
    """At a place of the task, as means over its examples; None where unknown.

    `change`: the mean size of the change between the two sides, which pairs of both directions do not cancel.
    `effect`: of the circuit's node.
    """

    place: str
    clean: float
    corrupted: float | None
    change: float | None
    effect: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Context:
    """A window of the text around the token where the feature has `activation`."""

    activation: float
    share_below: float
    """The share of the feature's active tokens that have a smaller size, from its histogram."""
    document: int
    position: int
    """Of the token, counted from 0, in its document."""
    at: int
    """Of the token in the window."""
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    activations: tuple[float | None, ...]
    """Of every token of the window; None at sinks."""


@dataclass(frozen=True)
class Dossier:
    """Everything that a text says of one feature; figures are None where a feature is never active."""

    site: str
    feature: int
    label: str
    """The default label, from the tokens that it is active on and those that it promotes and suppresses."""
    n_tokens: int
    """Tokens read that are no sinks at the site."""
    n_active: int
    density: float
    mean: float | None
    """Mean size where active."""
    max: float | None
    """The largest size."""
    negative: float | None
    """The share of active tokens where it is below 0."""
    quantiles: Mapping[float, float | None]
    """Share -> the size below which so many of the active tokens lie, to within a bin of the histogram."""
    histogram: Mapping[float, int]
    """Lower edge -> active tokens whose size is in the bin that begins there, quarter octaves; empty ends left out."""
    top_tokens: tuple[TokenShare, ...]
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]
    contexts: tuple[Context, ...]
    """The strongest first."""
    samples: tuple[Context, ...]
    """Contexts drawn at random, the strongest first."""
    neighbours: tuple[Neighbour, ...]
    """At the same site."""
    next_layer: tuple[Neighbour, ...]
    coactive: tuple[Neighbour, ...]
    """At any site."""
    task: tuple[TaskValue, ...]

    @property
    def name(self) -> str:
        return f"{self.site}/{self.feature}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as docs/dossiers.md has them."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rows = {
            "top_tokens": [row._asdict() for row in self.top_tokens],
            "promoted": [row._asdict() for row in self.promoted],
            "suppressed": [row._asdict() for row in self.suppressed],
            "neighbours": [_related(row, "cosine") for row in self.neighbours],
            "next_layer": [_related(row, "cosine") for row in self.next_layer],
            "coactive": [_related(row, "phi") for row in self.coactive],
            "task": [row._asdict() for row in self.task],
            "contexts": [_context(row) for row in self.contexts],
            "samples": [_context(row) for row in self.samples],
            "quantiles": [{"share": share, "size": size} for share, size in self.quantiles.items()],
            "histogram": [{"from": edge, "count": count} for edge, count in self.histogram.items()],
        }
        return {**plain, **rows}

    def _repr_html_(self) -> str:
        from featcircuits.dossiers.html import dossier_html

        return dossier_html(self)


def _related(row: Neighbour, what: str) -> dict[str, Any]:
    return {"site": row.site, "feature": row.feature, what: row.value}


def _context(row: Context) -> dict[str, Any]:
    lists = {name: list(getattr(row, name)) for name in ("tokens", "ids", "activations")}
    return {name: lists.get(name, getattr(row, name)) for name in row.__dataclass_fields__}


def dossier_of(row: Mapping[str, Any], contexts: list[Mapping[str, Any]], task: list[Mapping[str, Any]]) -> Dossier:
    """From a row of each of the tables (`featcircuits.dossiers.tables`)."""
    figures = ("site", "feature", "label", "n_tokens", "n_active", "density", "mean", "max", "negative")
    start, lower = row["histogram_start"], edges()
    return Dossier(
        **{name: row[name] for name in figures},
        quantiles={share: row[column] for share, column in quantile_columns().items()},
        histogram={float(lower[start + i]): count for i, count in enumerate(row["histogram"])},
        top_tokens=tuple(TokenShare(**one) for one in row["top_tokens"]),
        promoted=tuple(TokenEffect(**one) for one in row["promoted"]),
        suppressed=tuple(TokenEffect(**one) for one in row["suppressed"]),
        neighbours=tuple(Neighbour(*one.values()) for one in row["neighbours"]),
        next_layer=tuple(Neighbour(*one.values()) for one in row["next_layer"]),
        coactive=tuple(Neighbour(*one.values()) for one in row["coactive"]),
        contexts=tuple(_read_context(one) for one in contexts if one["kind"] == "top"),
        samples=tuple(_read_context(one) for one in contexts if one["kind"] == "sample"),
        task=tuple(TaskValue(*(one[name] for name in TaskValue._fields)) for one in task),
    )


def _read_context(row: Mapping[str, Any]) -> Context:
    lists: dict[str, Any] = {name: tuple(row[name]) for name in ("tokens", "ids", "activations")}
    return Context(**{name: row[name] for name in Context.__dataclass_fields__ if name not in lists}, **lists)


def quantile_columns() -> dict[float, str]:
    """Share -> the name of its column: 0.05 -> "q05"."""
    return {share: f"q{round(100 * share):02d}" for share in QUANTILES}
