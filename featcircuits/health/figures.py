"""How good dictionaries are on a text: sparsity, variance unexplained, loss recovered, dead features.

One forward pass per batch records the activations of all sites. Then each dictionary is spliced in alone, in
a pass that starts at its layer, and all of them together in a pass where each reads the edited activations.
Sink tokens (`featcircuits.splicing.sinks`) do not count for any figure, and keep their activation in all
of these passes.
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
from featcircuits.splicing.finite import check_activations
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.sinks import UsualTokens, usual_tokens
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.splicing.starts import start_at
from featcircuits.states.baselines import DENSE_NUMBERS
from featcircuits.tasks.token_rows import Rows, token_batches

ROWS = 256
"""The most rows of a forward pass."""


@dataclass(frozen=True)
class Figures:
    """The figures of one site, on all tokens except its sinks."""

    width: int
    n_features: int
    l0: float
    """Mean number of active features per token."""
    variance_unexplained: float
    """Squared error over squared distance from the mean, both summed over tokens."""
    loss_recovered: float
    """(loss at zero - loss at the reconstruction) / (loss at zero - loss of the bare model), where the site's
    activation is set to zero or to its reconstruction without the error; NaN where zero does not raise the loss."""
    loss_recovered_mean: float
    """The same with the site's mean in place of zero."""
    dead_features: int
    """Features that no token of the text activates."""
    sink_tokens: int
    """How many tokens were left out because they are sinks at the site."""

    def record(self) -> dict[str, int | float]:
        """The figures that are finite, rounded to five digits."""
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
    """Running sums over batches, for one site or for all together."""

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
    """The figures of every dictionary, spliced in alone, and the losses with all of them spliced in, without errors.

    `keep_sinks`: treat sink tokens like all others.
    """
    batches = token_batches(rows, rows_at_once(spliced, max(map(len, rows)), most=ROWS, all_logits=True))
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
    """The mean activation of every site [width], over all tokens except its sinks."""
    totals: dict[Site, Tensor] = {}
    counts = dict.fromkeys(spliced.sites, 0)
    for tokens in progress(batches, "means", len(batches)):
        tokens = tokens.to(spliced.device)
        seen = spliced.activations(tokens, spliced.sites)
        check_activations(seen)
        for site, x in seen.items():
            some = x[usual.at(site, x, tokens)]
            counts[site] += len(some)
            totals[site] = totals.get(site, 0) + some.double().sum(0)
    return {site: total / max(1, counts[site]) for site, total in totals.items()}


class _Batch(NamedTuple):
    """`seen`: activations that sites, dictionaries and later starts read. `usual` [row, slot]: which tokens count."""

    tokens: Tokens
    seen: Mapping[Site, Tensor]
    usual: Mapping[Site, Tensor]
    loss: float


def _recorded(spliced: SplicedModel, tokens: Tokens, usual: UsualTokens) -> _Batch:
    """One forward pass of the bare model. It keeps the loss instead of the logits, which would fill the memory."""
    seen: dict[Site, Tensor] = {}

    def keep(site: Site, x: Tensor) -> Tensor:
        seen[site] = x
        return x

    streams = {resid(layer) for layer in range(-1, spliced.architecture.n_layers)}
    loss = summed_loss(spliced.run(tokens, keep, sites=spliced.with_reads({*spliced.sites, *streams})), tokens)
    return _Batch(tokens, seen, {site: usual.at(site, seen[site], tokens) for site in spliced.sites}, loss)


def _add_site(spliced: SplicedModel, batch: _Batch, site: Site, mean: Tensor, total: _Sums) -> None:
    """Add one batch to a site's sums."""
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
    """All logits of a run in which the activation of one site is `value`; the layers before it are not run again."""
    start = start_at(site, seen.__getitem__, lambda _, stream: value)
    return spliced.run(tokens, lambda _, x: value, sites=[site], start=start)


def _everywhere(
    spliced: SplicedModel, usual: Mapping[Site, Tensor], means: Mapping[Site, Tensor]
) -> Mapping[str, Callable[[Site, Tensor, Tensor], Tensor]]:
    """Edits that replace the activations of all sites at once, each at its own usual tokens."""
    return {
        "reconstructed": lambda site, x, read: reconstruction(spliced.dictionaries[site], x, read, usual[site]),
        "zero": lambda site, x, read: x.masked_fill(usual[site][..., None], 0),
        "mean": lambda site, x, read: torch.where(usual[site][..., None], means[site].to(x.dtype), x),
    }


def reconstruction(dictionary: Dictionary, x: Tensor, read: Tensor, usual: Tensor) -> Tensor:
    """x [row, slot, width], replaced at the usual tokens by features and bypass without the error."""
    parts = [part for _, part in explained(dictionary, read[usual])]
    return x.masked_scatter(usual[..., None], torch.cat(parts).to(x.dtype))


def explained(dictionary: Dictionary, read: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(features [n, n_features], reconstruction with bypass [n, width]) of read [token, read_width], n at a time."""
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    for some in wide(read).split(size):
        features = dictionary.encode(some)
        part, past = decoded(dictionary, features, some), dictionary.bypass(some)
        yield features, part if past is None else part + past


def summed_loss(logits: Tensor, tokens: Tokens) -> float:
    """The summed cross-entropy of all tokens after the first of each row, given the tokens before them."""
    labels = tokens.ids[:, 1:].masked_fill(tokens.mask[:, 1:] == 0, -100)
    wide = logits[:, :-1].flatten(0, 1).to(precision(logits.dtype))
    return torch.nn.functional.cross_entropy(wide, labels.flatten(), reduction="sum").item()


@torch.no_grad()
def mean_loss(spliced: SplicedModel, rows: Rows) -> float:
    """The bare model's cross-entropy of the next token, in nats per token."""
    batches = token_batches(rows, rows_at_once(spliced, max(map(len, rows)), most=ROWS, all_logits=True))
    total = sum(summed_loss(spliced.run(tokens), tokens.to(spliced.device)) for tokens in batches)
    return total / sum(int(tokens.mask[:, 1:].sum()) for tokens in batches)
