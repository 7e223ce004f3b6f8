"""How good dictionaries are on some text: sparsity, variance unexplained, loss recovered, dead features.

One recorded forward per batch gives what every site holds; each dictionary is then spliced alone, in
a forward that starts at its layer, and all of them together in one that reads its own activations.
Sink tokens (`featcircuits.splicing.sinks`) count for none of the figures, and keep their activation in every
one of these forwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import decoded, precision, wide
from featcircuits.model.sites import Site, resid
from featcircuits.model.tokens import Tokens
from featcircuits.progress import Progress, silent
from featcircuits.splicing.sinks import UsualTokens, usual_tokens
from featcircuits.splicing.spliced import SplicedModel, check_finite
from featcircuits.states.baselines import DENSE_NUMBERS
from featcircuits.tasks.token_rows import Rows, token_batches

ROWS = 256
"""Rows of a forward, at most."""


@dataclass(frozen=True)
class Figures:
    """The figures of one site, on the tokens that are no sinks there."""

    width: int
    n_features: int
    l0: float
    """Mean number of active features per token."""
    variance_unexplained: float
    """Squared error over squared distance from the mean, both summed over tokens."""
    loss_recovered: float
    """Share of the loss between zero-ablation of the site and the bare model that is kept when
    the site's activation is replaced by its reconstruction, the error dropped; NaN where ablation
    does not raise the loss."""
    loss_recovered_mean: float
    """The same against mean-ablation."""
    dead_features: int
    """Features that no token of the text activates."""
    sink_tokens: int
    """Tokens that were left out: the site's sinks."""

    def record(self) -> dict[str, int | float]:
        """The figures to five digits, those that are numbers."""
        return {name: round(value, 5) for name, value in asdict(self).items() if math.isfinite(value)}


@dataclass(frozen=True)
class Losses:
    """Cross-entropy of the next token, in nats per token: bare, and with activations replaced."""

    clean: float
    reconstructed: float
    zero: float
    mean: float

    @property
    def recovered(self) -> float:
        """(zero - reconstructed) / (zero - clean)"""
        return _recovered(self.zero, self.reconstructed, self.clean)

    @property
    def recovered_mean(self) -> float:
        """(mean - reconstructed) / (mean - clean)"""
        return _recovered(self.mean, self.reconstructed, self.clean)


def _recovered(ablated: float, reconstructed: float, clean: float) -> float:
    return (ablated - reconstructed) / (ablated - clean) if ablated > clean else math.nan


@dataclass
class _Sums:
    """Of one site over batches, or of all together."""

    count: int = 0
    active: float = 0.0
    error: float = 0.0
    variance: float = 0.0
    alive: Tensor | None = None
    losses: dict[str, float] = field(default_factory=lambda: {"reconstructed": 0.0, "zero": 0.0, "mean": 0.0})

    def per_token(self, clean: float, count: int) -> Losses:
        return Losses(clean / count, **{name: total / count for name, total in self.losses.items()})


@torch.no_grad()
def measure(
    spliced: SplicedModel, rows: Rows, progress: Progress = silent, *, keep_sinks: bool = False
) -> tuple[dict[Site, Figures], Losses]:
    """Figures of every dictionary, each spliced alone; and the losses with all of them spliced, all errors dropped.

    `keep_sinks`: sink tokens are treated as all others.
    """
    batches = token_batches(rows, spliced.rows_at_once(max(map(len, rows)), most=ROWS, all_logits=True))
    usual = UsualTokens() if keep_sinks else usual_tokens(spliced, batches, spliced.sites, progress)
    means = site_means(spliced, batches, usual, progress)
    sums, together = {site: _Sums() for site in spliced.sites}, _Sums()
    clean, n_predicted = 0.0, 0
    for tokens in progress(batches, "figures", len(batches)):
        batch = _recorded(spliced, tokens.to(spliced.device), usual)
        clean += batch.loss
        n_predicted += int(tokens.mask[:, 1:].sum())
        for site, total in sums.items():
            _add_site(spliced, batch, site, means[site], total)
        for name, edit in _everywhere(spliced, batch.usual, means).items():
            together.losses[name] += summed_loss(spliced.run_reading(tokens, edit), batch.tokens)
    count, n_tokens = max(1, n_predicted), sum(map(len, rows))
    figures = {
        site: _figures(spliced.dictionaries[site], total, total.per_token(clean, count), n_tokens)
        for site, total in sums.items()
    }
    return figures, together.per_token(clean, count)


def _figures(dictionary: Dictionary, total: _Sums, losses: Losses, n_tokens: int) -> Figures:
    assert total.alive is not None
    return Figures(
        width=dictionary.width,
        n_features=dictionary.n_features,
        l0=total.active / max(1, total.count),
        variance_unexplained=total.error / total.variance if total.variance > 0 else math.nan,
        loss_recovered=losses.recovered,
        loss_recovered_mean=losses.recovered_mean,
        dead_features=int(total.alive.logical_not().sum()),
        sink_tokens=n_tokens - total.count,
    )


def site_means(
    spliced: SplicedModel, batches: list[Tokens], usual: UsualTokens, progress: Progress = silent
) -> dict[Site, Tensor]:
    """The mean activation of every site over the tokens that are no sinks there [width]."""
    totals: dict[Site, Tensor] = {}
    counts = dict.fromkeys(spliced.sites, 0)
    for tokens in progress(batches, "means", len(batches)):
        tokens = tokens.to(spliced.device)
        logits, seen = spliced.record(tokens)
        check_finite(logits, seen)
        for site, x in seen.items():
            some = x[usual.at(site, x, tokens)]
            counts[site] += len(some)
            totals[site] = totals.get(site, 0) + some.double().sum(0)
    return {site: total / max(1, counts[site]) for site, total in totals.items()}


class _Batch(NamedTuple):
    """`seen`: what every site, its dictionary and a later start read. `usual` [row, slot]: which tokens count."""

    tokens: Tokens
    seen: Mapping[Site, Tensor]
    usual: Mapping[Site, Tensor]
    loss: float


def _recorded(spliced: SplicedModel, tokens: Tokens, usual: UsualTokens) -> _Batch:
    """One forward of the bare model; of its logits the loss is kept, they would fill the memory."""
    seen: dict[Site, Tensor] = {}

    def keep(site: Site, x: Tensor) -> Tensor:
        seen[site] = x
        return x

    streams = {resid(layer) for layer in range(-1, spliced.architecture.n_layers)}
    loss = summed_loss(spliced.run(tokens, keep, sites=spliced.with_reads({*spliced.sites, *streams})), tokens)
    return _Batch(tokens, seen, {site: usual.at(site, seen[site], tokens) for site in spliced.sites}, loss)


def _add_site(spliced: SplicedModel, batch: _Batch, site: Site, mean: Tensor, total: _Sums) -> None:
    """What one batch adds to a site's sums."""
    dictionary, x, usual = spliced.dictionaries[site], batch.seen[site], batch.usual[site]
    parts = []
    for features, part in explained(dictionary, batch.seen[spliced.read_site(site)][usual]):
        active = dictionary.is_active(features)
        total.active += active.sum().item()
        total.alive = active.any(0) if total.alive is None else total.alive | active.any(0)
        parts.append(part)
    rebuilt, wide = torch.cat(parts), x[usual].double()
    total.count += len(wide)
    total.error += (wide - rebuilt).square().sum().item()
    total.variance += (wide - mean).square().sum().item()
    values = {"reconstructed": rebuilt, "zero": torch.zeros_like(wide), "mean": mean.expand_as(wide)}
    for name, value in values.items():
        edited = x.masked_scatter(usual[..., None], value.to(x.dtype))
        total.losses[name] += summed_loss(with_site_at(spliced, batch.tokens, site, batch.seen, edited), batch.tokens)


def with_site_at(
    spliced: SplicedModel, tokens: Tokens, site: Site, seen: Mapping[Site, Tensor], value: Tensor
) -> Tensor:
    """All logits of a run in which one site holds `value`; the layers before it are not run again."""
    start = spliced.start_at(site, seen.__getitem__, lambda _, stream: value)
    return spliced.run(tokens, lambda _, x: value, sites=[site], start=start)


def _everywhere(
    spliced: SplicedModel, usual: Mapping[Site, Tensor], means: Mapping[Site, Tensor]
) -> Mapping[str, Callable[[Site, Tensor, Tensor], Tensor]]:
    """Edits of all sites at once, each at its own tokens."""
    return {
        "reconstructed": lambda site, x, read: reconstruction(spliced.dictionaries[site], x, read, usual[site]),
        "zero": lambda site, x, read: x.masked_fill(usual[site][..., None], 0),
        "mean": lambda site, x, read: torch.where(usual[site][..., None], means[site].to(x.dtype), x),
    }


def reconstruction(dictionary: Dictionary, x: Tensor, read: Tensor, usual: Tensor) -> Tensor:
    """x [row, slot, width] with what features and bypass make of it, the error dropped, at some tokens [row, slot]."""
    parts = [part for _, part in explained(dictionary, read[usual])]
    return x.masked_scatter(usual[..., None], torch.cat(parts).to(x.dtype))


def explained(dictionary: Dictionary, read: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(features [n, n_features], what they and the bypass make [n, width]) of read [token, read_width], n at a time."""
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    for some in wide(read).split(size):
        features = dictionary.encode(some)
        part, past = decoded(dictionary, features, some), dictionary.bypass(some)
        yield features, part if past is None else part + past


def summed_loss(logits: Tensor, tokens: Tokens) -> float:
    """Cross-entropy of every token but the first of a row, given those before it."""
    labels = tokens.ids[:, 1:].masked_fill(tokens.mask[:, 1:] == 0, -100)
    wide = logits[:, :-1].flatten(0, 1).to(precision(logits.dtype))
    return torch.nn.functional.cross_entropy(wide, labels.flatten(), reduction="sum").item()


@torch.no_grad()
def mean_loss(spliced: SplicedModel, rows: Rows) -> float:
    """The bare model's cross-entropy of the next token, in nats per token."""
    batches = token_batches(rows, spliced.rows_at_once(max(map(len, rows)), most=ROWS, all_logits=True))
    total = sum(summed_loss(spliced.run(tokens), tokens.to(spliced.device)) for tokens in batches)
    return total / sum(int(tokens.mask[:, 1:].sum()) for tokens in batches)
