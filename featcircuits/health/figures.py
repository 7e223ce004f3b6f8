"""How good dictionaries are on some text: sparsity, variance unexplained, loss recovered, dead features.

One recorded forward a batch gives what every site holds; each dictionary is then spliced alone, in
a forward that starts at its layer, and all of them together in one that reads its own activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from featcircuits.baselines import DENSE_NUMBERS
from featcircuits.decomposition import precision
from featcircuits.dictionaries import Dictionary
from featcircuits.progress import Progress, silent
from featcircuits.sites import Site, resid
from featcircuits.splice import SplicedModel, check_finite
from featcircuits.text import Rows, token_batches
from featcircuits.tokens import Tokens

ROWS = 256
"""Rows of a forward, at most."""


@dataclass(frozen=True)
class Figures:
    """The figures of one site."""

    width: int
    n_features: int
    l0: float
    """Mean number of active features a token."""
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

    def record(self) -> dict[str, int | float]:
        """The figures to five digits, those that are numbers."""
        return {name: round(value, 5) for name, value in asdict(self).items() if math.isfinite(value)}


@dataclass(frozen=True)
class Losses:
    """Cross-entropy of the next token, in nats a token: bare, and with activations replaced."""

    clean: float
    reconstructed: float
    zero: float
    mean: float

    @property
    def recovered(self) -> float:
        """(zero - reconstructed) / (zero - clean)"""
        return _share(self.zero, self.reconstructed, self.clean)

    @property
    def recovered_mean(self) -> float:
        """(mean - reconstructed) / (mean - clean)"""
        return _share(self.mean, self.reconstructed, self.clean)


def _share(ablated: float, reconstructed: float, clean: float) -> float:
    return (ablated - reconstructed) / (ablated - clean) if ablated > clean else math.nan


@dataclass
class _Sums:
    """Of one site over batches, or of all together."""

    active: float = 0.0
    error: float = 0.0
    variance: float = 0.0
    alive: Tensor | None = None
    losses: dict[str, float] = field(default_factory=lambda: {"reconstructed": 0.0, "zero": 0.0, "mean": 0.0})

    def per_token(self, clean: float, count: int) -> Losses:
        return Losses(clean / count, **{name: total / count for name, total in self.losses.items()})


@torch.no_grad()
def measure(spliced: SplicedModel, rows: Rows, progress: Progress = silent) -> tuple[dict[Site, Figures], Losses]:
    """Figures of every dictionary, each spliced alone; and the losses with all of them spliced, all errors dropped."""
    batches = token_batches(rows, spliced.rows_at_once(max(map(len, rows)), most=ROWS, all_logits=True))
    means, n_tokens = site_means(spliced, batches, progress)
    sums, together = {site: _Sums() for site in spliced.sites}, _Sums()
    clean, n_predicted = 0.0, 0
    for tokens in progress(batches, "figures", len(batches)):
        tokens = tokens.to(spliced.device)
        seen, loss = _recorded(spliced, tokens)
        clean += loss
        n_predicted += int(tokens.mask[:, 1:].sum())
        for site, total in sums.items():
            _add_site(spliced, tokens, site, seen, means[site], total)
        for name, edit in _everywhere(spliced, means).items():
            together.losses[name] += summed_loss(spliced.run_reading(tokens, edit), tokens)
    count = max(1, n_predicted)
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
        l0=total.active / n_tokens,
        variance_unexplained=total.error / total.variance if total.variance > 0 else math.nan,
        loss_recovered=losses.recovered,
        loss_recovered_mean=losses.recovered_mean,
        dead_features=int(total.alive.logical_not().sum()),
    )


def site_means(spliced: SplicedModel, batches: list[Tokens], progress: Progress) -> tuple[dict[Site, Tensor], int]:
    """The mean activation of every site over the tokens [width], and how many tokens there are."""
    totals: dict[Site, Tensor] = {}
    count = 0
    for tokens in progress(batches, "means", len(batches)):
        tokens = tokens.to(spliced.device)
        logits, seen = spliced.record(tokens)
        check_finite(logits, seen)
        real = tokens.mask > 0
        count += int(real.sum())
        for site, x in seen.items():
            totals[site] = totals.get(site, 0) + x[real].double().sum(0)
    return {site: total / count for site, total in totals.items()}, count


def _recorded(spliced: SplicedModel, tokens: Tokens) -> tuple[dict[Site, Tensor], float]:
    """What every site, its dictionary and a later start read, and the loss (logits would fill the memory)."""
    seen: dict[Site, Tensor] = {}

    def keep(site: Site, x: Tensor) -> Tensor:
        seen[site] = x
        return x

    streams = {resid(layer) for layer in range(-1, spliced.architecture.n_layers)}
    loss = summed_loss(spliced.run(tokens, keep, sites=spliced.with_reads({*spliced.sites, *streams})), tokens)
    return seen, loss


def _add_site(
    spliced: SplicedModel, tokens: Tokens, site: Site, seen: Mapping[Site, Tensor], mean: Tensor, total: _Sums
) -> None:
    """What one batch adds to a site's sums."""
    dictionary, x, real = spliced.dictionaries[site], seen[site], tokens.mask > 0
    parts = []
    for features, part in explained(dictionary, seen[spliced.read_site(site)][real]):
        active = dictionary.is_active(features)
        total.active += active.sum().item()
        total.alive = active.any(0) if total.alive is None else total.alive | active.any(0)
        parts.append(part)
    rebuilt, wide = torch.cat(parts), x[real].double()
    total.error += (wide - rebuilt).square().sum().item()
    total.variance += (wide - mean).square().sum().item()
    values = {
        "reconstructed": x.masked_scatter(real[..., None], rebuilt.to(x.dtype)),
        "zero": torch.zeros_like(x),
        "mean": mean.to(x.dtype).expand_as(x),
    }
    for name, value in values.items():
        total.losses[name] += summed_loss(with_site_at(spliced, tokens, site, seen, value), tokens)


def with_site_at(
    spliced: SplicedModel, tokens: Tokens, site: Site, seen: Mapping[Site, Tensor], value: Tensor
) -> Tensor:
    """All logits of a run in which one site holds `value`; the layers before it are not run again."""
    start = spliced.start_at(site, seen.__getitem__, lambda _, stream: value)
    return spliced.run(tokens, lambda _, x: value, sites=[site], start=start)


def _everywhere(
    spliced: SplicedModel, means: Mapping[Site, Tensor]
) -> Mapping[str, Callable[[Site, Tensor, Tensor], Tensor]]:
    """Edits of all sites at once."""
    return {
        "reconstructed": lambda site, x, read: reconstruction(spliced.dictionaries[site], x, read),
        "zero": lambda site, x, read: torch.zeros_like(x),
        "mean": lambda site, x, read: means[site].to(x.dtype).expand_as(x),
    }


def reconstruction(dictionary: Dictionary, x: Tensor, read: Tensor) -> Tensor:
    """What features and bypass make of an activation x [..., width], the error dropped."""
    parts = [part for _, part in explained(dictionary, read.flatten(0, -2))]
    return torch.cat(parts).view(x.shape).to(x.dtype)


def explained(dictionary: Dictionary, read: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(features [n, n_features], what they and the bypass make [n, width]) of read [token, read_width], n at a time."""
    size = max(1, DENSE_NUMBERS // max(1, dictionary.n_features))
    for some in read.to(precision(read.dtype)).split(size):
        features = dictionary.encode(some)
        part, past = dictionary.decode(features, dictionary.statistics(some)), dictionary.bypass(some)
        yield features, part if past is None else part + past


def summed_loss(logits: Tensor, tokens: Tokens) -> float:
    """Cross-entropy of every token but the first of a row, given those before it."""
    labels = tokens.ids[:, 1:].masked_fill(tokens.mask[:, 1:] == 0, -100)
    wide = logits[:, :-1].flatten(0, 1).to(precision(logits.dtype))
    return torch.nn.functional.cross_entropy(wide, labels.flatten(), reduction="sum").item()


@torch.no_grad()
def mean_loss(spliced: SplicedModel, rows: Rows) -> float:
    """The bare model's cross-entropy of the next token, in nats a token."""
    batches = token_batches(rows, spliced.rows_at_once(max(map(len, rows)), most=ROWS, all_logits=True))
    total = sum(summed_loss(spliced.run(tokens), tokens.to(spliced.device)) for tokens in batches)
    return total / sum(int(tokens.mask[:, 1:].sum()) for tokens in batches)
