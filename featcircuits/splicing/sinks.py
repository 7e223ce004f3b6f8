"""Sink tokens: those that models park attention at, whose activations are far larger than all others.

At a site a token is a sink where the norm of its activation is over `OUTLIER` times the median norm
of the text's tokens there; and the BOS token at the head of a row is one at every site. One sink
can weigh more than all other tokens together: it would decide a share of variance alone, and take
most of the features of a batch. So dictionaries are trained and measured on the other tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel, check_finite

OUTLIER = 10.0
"""A token whose activation is so many times the median's size is a sink."""


@dataclass(frozen=True)
class UsualTokens:
    """Which tokens of a text are no sinks; without arguments all are usual."""

    bos: frozenset[int] = frozenset()
    limits: Mapping[Site, float] = field(default_factory=dict)
    """The largest norm at each site that is no sink's."""

    def at(self, site: Site, x: Tensor, tokens: Tokens) -> Tensor:
        """[row, slot]: which tokens are no sinks, nor padding, at a site whose activation is x [row, slot, width]."""
        return usual_anywhere(tokens, self.bos) & (norms(x) <= self.limits.get(site, math.inf))


def usual_tokens(
    spliced: SplicedModel, batches: list[Tokens], sites: Iterable[Site], progress: Progress = silent
) -> UsualTokens:
    """Finds the sinks of a text by one forward a batch; the medians are those of all batches together.

    Raises `InputError` for activations that are NaN or infinite.
    """
    bos, sites = bos_ids(spliced), tuple(sites)
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for tokens in progress(batches, "sink tokens", len(batches)):
        tokens = tokens.to(spliced.device)
        logits, seen = spliced.record(tokens, sites)
        check_finite(logits, seen)
        some = usual_anywhere(tokens, bos)
        for site, x in seen.items():
            found[site].append(norms(x)[some])
    return UsualTokens(bos, {site: limit_of(torch.cat(parts)) for site, parts in found.items()})


def norms(x: Tensor) -> Tensor:
    """[..., width] -> [...], in float32 at least."""
    return wide(x).norm(dim=-1)


def limit_of(sizes: Tensor) -> float:
    """The largest norm that is no sink's among tokens with these norms [token]; infinite where most are 0."""
    median = sizes.median().item() if len(sizes) else 0.0
    return OUTLIER * median if median > 0 else math.inf


def usual_anywhere(tokens: Tokens, bos: Iterable[int]) -> Tensor:
    """[row, slot]: which tokens are neither padding nor a BOS at the head of their row."""
    real = tokens.mask > 0
    named = torch.tensor(sorted(bos), dtype=tokens.ids.dtype, device=tokens.ids.device)
    return real & ~((tokens.positions == 0) & torch.isin(tokens.ids, named))


def bos_ids(spliced: SplicedModel) -> frozenset[int]:
    """The BOS tokens that the model's config and its tokenizer name."""
    config: Any = spliced.model.config
    owners = (config, config.get_text_config(), spliced.tokenizer)
    return frozenset(id for owner in owners if isinstance(id := getattr(owner, "bos_token_id", None), int))
