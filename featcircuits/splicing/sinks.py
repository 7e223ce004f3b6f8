"""Sink tokens, which absorb idle attention and whose activations are far larger than all others.

A token is a sink at a site if the norm of its activation is over `OUTLIER` times the median norm
of the text's tokens there. The BOS token at the start of a row is a sink at every site. One sink
can weigh more than all other tokens together: it would dominate the variance, and take
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
from featcircuits.splicing.finite import check_activations
from featcircuits.splicing.spliced import SplicedModel

OUTLIER = 10.0
"""A token whose activation has more than this times the median norm is a sink."""


@dataclass(frozen=True)
class UsualTokens:
    """Tells which tokens of a text are not sinks; without arguments all are usual."""

    bos: frozenset[int] = frozenset()
    limits: Mapping[Site, float] = field(default_factory=dict)
    """The largest norm of a token that is not a sink, by site."""

    def at(self, site: Site, x: Tensor, tokens: Tokens) -> Tensor:
        """Which tokens are neither sinks nor padding [row, slot], at a site with activation x [row, slot, width]."""
        return usual_anywhere(tokens, self.bos) & (norms(x) <= self.limits.get(site, math.inf))


def usual_tokens(
    spliced: SplicedModel, batches: list[Tokens], sites: Iterable[Site], progress: Progress = silent
) -> UsualTokens:
    """Find the sinks of a text with one forward pass per batch; medians are taken over all batches together.

    Raises `InputError` for activations that are NaN or infinite.
    """
    bos, sites = bos_ids(spliced), tuple(sites)
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for tokens in progress(batches, "sink tokens", len(batches)):
        tokens = tokens.to(spliced.device)
        seen = spliced.activations(tokens, sites)
        check_activations(seen)
        some = usual_anywhere(tokens, bos)
        for site, x in seen.items():
            found[site].append(norms(x)[some])
    return UsualTokens(bos, {site: limit_of(torch.cat(parts)) for site, parts in found.items()})


def norms(x: Tensor) -> Tensor:
    """The norms [...] of activations [..., width], in float32 or wider."""
    return wide(x).norm(dim=-1)


def limit_of(sizes: Tensor) -> float:
    """The largest norm of a token that is not a sink, given all norms [token]; infinite if most are 0."""
    median = sizes.median().item() if len(sizes) else 0.0
    return OUTLIER * median if median > 0 else math.inf


def usual_anywhere(tokens: Tokens, bos: Iterable[int]) -> Tensor:
    """Which tokens are neither padding nor a BOS at the start of their row [row, slot]."""
    real = tokens.mask > 0
    named = torch.tensor(sorted(bos), dtype=tokens.ids.dtype, device=tokens.ids.device)
    return real & ~((tokens.positions == 0) & torch.isin(tokens.ids, named))


def bos_ids(spliced: SplicedModel) -> frozenset[int]:
    """The BOS tokens that the model's config and its tokenizer name."""
    config: Any = spliced.model.config
    owners = (config, config.get_text_config(), spliced.tokenizer)
    return frozenset(id for owner in owners if isinstance(id := getattr(owner, "bos_token_id", None), int))
