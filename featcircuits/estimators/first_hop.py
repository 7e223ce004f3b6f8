"""First hops: how the modules that read the residual stream respond when one position of it moves.

A node is read directly by every later attention (queries, keys, values), every later MLP and the
unembedding. The response of a reader to one moved position depends only on that position, so a
forward pass of single tokens computes it, in which each layer receives its clean stream plus the move. The effect
of the reader's change on the metric is then linear, with the clean run's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featcircuits.dictionaries.decomposition import precision
from featcircuits.estimators.writes import reads
from featcircuits.model.frozen import frozen
from featcircuits.model.sites import Site, all_sites, resid
from featcircuits.model.tokens import Tokens
from featcircuits.propagation.moved_attention import MovedToken, attention_effects
from featcircuits.propagation.open_attention import Pattern, attending, per_head
from featcircuits.splicing.spliced import SplicedModel, Start
from featcircuits.states.states import States


class Term(NamedTuple):
    """Gradients of m in the clean run, with one write dropped or none."""

    sites: Mapping[Site, Tensor]
    """dm/dx at every site of the model [example, slot, width]."""
    heads: Sequence[Tensor]
    """dm/d(attention's heads) of each layer [example, head, slot, width]."""
    through_pattern: Sequence[Tensor]
    """The part of dm/d(stream that enters a layer) that passes its queries and keys directly."""


@dataclass(frozen=True, eq=False)
class Readers:
    """The clean run of a batch: activations at all sites, attention patterns and gradients."""

    clean: Mapping[Site, Tensor]
    patterns: Sequence[Pattern]
    terms: Sequence[Term]


class Moves(NamedTuple):
    """Moves at one site: position `row` = example * slots + slot of the stream by `vector` [n, width]."""

    site: Site
    row: Tensor
    vector: Tensor


class FirstHop(NamedTuple):
    """Effects [term, n] through first-hop readers."""

    pattern: Tensor
    """The finite effect of moving queries and keys together, with values held fixed."""
    attention: Tensor
    """The finite effect of moving queries, keys and values."""
    mlp: Tensor
    metric: Tensor


def read_clean(spliced: SplicedModel, states: States, dropped: Sequence[Site | None] = (None,)) -> Readers:
    """The clean run, with gradients for every term; each write in `dropped` passes no gradient back in its term."""
    runs = [_clean_run(spliced, states, write) for write in dropped]
    return Readers(runs[0][0], runs[0][1], [term for _, _, term in runs])


def _clean_run(
    spliced: SplicedModel, states: States, dropped: Site | None
) -> tuple[dict[Site, Tensor], list[Pattern], Term]:
    layer_of, n_layers = spliced.architecture.layer_of(spliced.model), spliced.architecture.n_layers
    seen: dict[Site, Tensor] = {}
    pattern_at: dict[int, Pattern] = {}
    heads_at: dict[int, Tensor] = {}

    def keep(site: Site, x: Tensor) -> Tensor:
        if site == dropped:
            x = x.detach()
        seen[site] = x if x.requires_grad else x.detach().requires_grad_()
        return seen[site]

    def attend(module: nn.Module, *args: Any, **settings: Any) -> tuple[Tensor, None]:
        layer = layer_of[module]
        pattern_at[layer] = Pattern.of(module, *args, **settings)
        heads_at[layer] = pattern_at[layer].output()
        return heads_at[layer], None

    with torch.enable_grad(), frozen(spliced.model), attending(spliced.model, attend, spliced.architecture):
        logits = spliced.run(states.batch.clean, keep, sites=all_sites(n_layers), answers_only=True)
    patterns = [pattern_at[layer] for layer in range(n_layers)]
    heads = [heads_at[layer] for layer in range(n_layers)]
    streams = [seen[resid(layer - 1)] for layer in range(n_layers)]
    term = _gradients(states.objective(logits), seen, heads, patterns, streams)
    return {site: x.detach() for site, x in seen.items()}, [pattern.detached() for pattern in patterns], term


def _gradients(
    metric: Tensor,
    sites: Mapping[Site, Tensor],
    heads: Sequence[Tensor],
    patterns: Sequence[Pattern],
    streams: Sequence[Tensor],
) -> Term:
    """dm/d(sites), dm/d(heads), and dm/d(stream of each layer) through its queries and keys alone."""
    queries_and_keys = [(pattern.query, pattern.key) for pattern in patterns]
    wanted = [*sites.values(), *heads, *(tensor for pair in queries_and_keys for tensor in pair)]
    gradients = iter(
        torch.autograd.grad(metric.sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    )
    at_sites = {site: next(gradients) for site in sites}
    at_heads = [next(gradients).transpose(1, 2) for _ in heads]
    through_pattern = [
        torch.autograd.grad(pair, stream, (next(gradients), next(gradients)), retain_graph=True)[0]
        for pair, stream in zip(queries_and_keys, streams, strict=True)
    ]
    return Term(at_sites, at_heads, through_pattern)


@torch.no_grad()
def in_stream(spliced: SplicedModel, states: States, moves: Moves) -> Moves:
    """Moves of heads as moves of the attention's output, through its projection; other moves unchanged."""
    if moves.site.kind != "attn_z":
        return moves
    site, dtype = Site(moves.site.layer, "attn"), spliced.model.dtype
    write = spliced.architecture.attention_write(spliced.model, site.layer)
    heads = states.sites[moves.site].x.flatten(0, 1)[moves.row]
    change = write(heads + moves.vector.to(dtype)) - write(heads)
    return Moves(site, moves.row, change.to(moves.vector.dtype))


@torch.no_grad()
def first_hop(spliced: SplicedModel, states: States, readers: Readers, moves: Moves) -> FirstHop:
    """The effect of each move through every first-hop reader, in every term."""
    slots = states.batch.clean.ids.shape[1]
    example, slot = moves.row // slots, moves.row % slots
    heard = _heard(spliced, states, readers, moves, example, slot)
    n_terms, dtype = len(readers.terms), precision(moves.vector.dtype)
    pattern, attention, mlp = (moves.vector.new_zeros(n_terms, len(slot), dtype=dtype) for _ in range(3))

    for number, term in enumerate(readers.terms):
        for layer, token in heard.tokens.items():
            effects = attention_effects(readers.patterns[layer], term.heads[layer], token)
            pattern[number] += effects.value_held.to(dtype)
            attention[number] += effects.value_moved.to(dtype)
        for site, change in heard.mlps.items():
            mlp[number] += (change.to(dtype) * term.sites[site][example, slot]).sum(-1)

    # the unembedding reads only the last position, where the change of m is finite in every term
    is_last = (slot == states.batch.clean.last[example]).to(dtype)
    metric = is_last * (states.objective.select(example)(heard.logits) - states.metric_clean[example]).to(dtype)
    return FirstHop(pattern, attention, mlp, metric.expand(n_terms, -1))


class _Heard(NamedTuple):
    """The results of the first-hop readers of moved positions [n]."""

    tokens: Mapping[int, MovedToken]
    """Layer -> the moved tokens in its attention, if it reads the site."""
    mlps: Mapping[Site, Tensor]
    """The change of the output of each MLP that reads the site [n, width]."""
    logits: Tensor


def _heard(
    spliced: SplicedModel, states: States, readers: Readers, moves: Moves, example: Tensor, slot: Tensor
) -> _Heard:
    """A forward pass of single tokens, in which every layer receives the clean stream plus the move.

    So each module computes its response as the first reader of the move. What attention mixes into the token does
    not matter, since every site is set.
    """
    site, n_layers = moves.site, spliced.architecture.n_layers
    layer_of, vector = spliced.architecture.layer_of(spliced.model), moves.vector.to(spliced.model.dtype)[:, None]
    tokens: dict[int, MovedToken] = {}
    mlps: dict[Site, Tensor] = {}

    def forced(at: Site) -> Tensor:
        clean = readers.clean[at][example, slot][:, None]
        is_moved = at == site or (at.kind == "resid" and at.layer >= site.layer)
        return clean + vector if is_moved else clean

    def force(at: Site, x: Tensor) -> Tensor:
        if at.kind == "mlp" and reads(spliced, at, site):
            mlps[at] = (x - forced(at))[:, 0]
        return forced(at)

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        layer = layer_of[module]
        if reads(spliced, Site(layer, "attn"), site):
            per_query_head = (query, per_head(key, query.shape[1]), per_head(value, query.shape[1]))
            tokens[layer] = MovedToken(example, slot, *(x[:, :, 0] for x in per_query_head))
        return torch.zeros_like(query).transpose(1, 2), None

    clean, ids = states.batch.clean, states.batch.clean.ids[example, slot][:, None]
    prompts = Tokens(ids, torch.ones_like(ids), clean.positions[example, slot], clean.vocabulary)
    start = Start(site.start, forced(resid(site.start - 1))) if site.start > 0 else None
    with attending(spliced.model, attend, spliced.architecture):
        logits = spliced.run(prompts, force, sites=all_sites(n_layers), start=start, answers_only=True)
    return _Heard(tokens, mlps, logits)
