"""What the modules that read the residual stream do when one position of it moves, first hop only.

A node is read directly by every later attention (queries, keys, values), every later MLP and the
unembedding. Everything a reader does to one moved position is computed from that position alone: a
forward of single tokens in which each layer receives its clean stream plus the move. What the
change of a reader's output means for the metric is then linear, with the clean run's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.estimators.writes import reads
from featcircuits.model.sites import Site, all_sites, resid
from featcircuits.model.tokens import Tokens
from featcircuits.propagation.open_attention import Pattern, attending, per_head, without_each
from featcircuits.splicing.spliced import SplicedModel, Start, frozen
from featcircuits.states.states import States


class Term(NamedTuple):
    """Gradients of m in the clean run, with one write dropped or none."""

    sites: Mapping[Site, Tensor]
    """dm/dx at every site of the model [example, slot, width]"""
    heads: Sequence[Tensor]
    """dm/d(attention's heads) of each layer [example, head, slot, width]"""
    through_pattern: Sequence[Tensor]
    """The part of dm/d(stream that enters a layer) that passes its queries and keys directly."""


@dataclass(frozen=True, eq=False)
class Readers:
    """The clean run of a batch: activations at all sites, attention patterns, and gradients."""

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
    """Queries and keys moved together, values held: finite."""
    attention: Tensor
    """Queries, keys and values moved: finite."""
    mlp: Tensor
    metric: Tensor


def read_clean(spliced: SplicedModel, states: States, dropped: Sequence[Site | None] = (None,)) -> Readers:
    """The clean run, with gradients for every term of `dropped` (a write that passes none back)."""
    runs = [_clean_run(spliced, states, write) for write in dropped]
    return Readers(runs[0][0], runs[0][1], [term for _, _, term in runs])


def _clean_run(
    spliced: SplicedModel, states: States, dropped: Site | None
) -> tuple[dict[Site, Tensor], list[Pattern], Term]:
    sites = all_sites(spliced.architecture.n_layers)
    seen: dict[Site, Tensor] = {}
    patterns: list[Pattern] = []
    outputs: list[Tensor] = []

    def keep(site: Site, x: Tensor) -> Tensor:
        if site == dropped:
            x = x.detach()
        seen[site] = x if x.requires_grad else x.detach().requires_grad_()
        return seen[site]

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Any:
        patterns.append(Pattern.of(module, query, key, value, mask, **settings))
        outputs.append(patterns[-1].output())
        return outputs[-1], None

    with torch.enable_grad(), frozen(spliced.model), attending(spliced.model, attend, spliced.architecture):
        logits = spliced.run(states.batch.clean, keep, sites=sites, answers_only=True)
        inner = [tensor for pattern in patterns for tensor in (pattern.query, pattern.key)]
        wanted = [*seen.values(), *outputs, *inner]
        found = torch.autograd.grad(
            states.objective(logits).sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        at_sites = dict(zip(seen, found, strict=False))
        heads = [gradient.transpose(1, 2) for gradient in found[len(seen) : len(seen) + len(outputs)]]
        at_inner = found[len(seen) + len(outputs) :]
        through = []
        for layer in range(len(patterns)):
            pair = slice(2 * layer, 2 * layer + 2)
            stream = seen[resid(layer - 1)]
            through += torch.autograd.grad(inner[pair], stream, at_inner[pair], retain_graph=True)
    clean = {site: x.detach() for site, x in seen.items()}
    return clean, [pattern.detached() for pattern in patterns], Term(at_sites, heads, through)


@torch.no_grad()
def in_stream(spliced: SplicedModel, states: States, moves: Moves) -> Moves:
    """Moves of heads as what they move of the attention's output, through its projection; others as they are."""
    if moves.site.kind != "attn_z":
        return moves
    site, dtype = Site(moves.site.layer, "attn"), spliced.model.dtype
    write = spliced.architecture.attention_write(spliced.model, site.layer)
    heads = states.sites[moves.site].x.flatten(0, 1)[moves.row]
    change = write(heads + moves.vector.to(dtype)) - write(heads)
    return Moves(site, moves.row, change.to(moves.vector.dtype))


@torch.no_grad()
def first_hop(spliced: SplicedModel, states: States, readers: Readers, moves: Moves) -> FirstHop:
    """What every first-hop reader makes of each move, in every term."""
    site, slots = moves.site, states.batch.clean.ids.shape[1]
    example, slot = moves.row // slots, moves.row % slots
    count, wide = len(moves.row), precision(moves.vector.dtype)
    sums = FirstHop(*(moves.vector.new_zeros(len(readers.terms), count, dtype=wide) for _ in range(4)))
    vector = moves.vector.to(spliced.model.dtype)

    def held(at: Site) -> Tensor:
        return readers.clean[at][example, slot][:, None]

    def force(at: Site, x: Tensor) -> Tensor:
        value = held(at)
        if at.kind == "mlp" and reads(spliced, at, site):
            change = (x - value)[:, 0].to(wide)
            for term, total in zip(readers.terms, sums.mlp, strict=True):
                total += (change * term.sites[at][example, slot]).sum(-1)
        carries = at == site or (at.kind == "resid" and at.layer >= site.layer)
        return value + vector[:, None] if carries else value

    layer = iter(range(site.start, spliced.architecture.n_layers))

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Any:
        number = next(layer)
        if reads(spliced, Site(number, "attn"), site):
            heads = query.shape[1]
            moved = (query[:, :, 0], per_head(key, heads)[:, :, 0], per_head(value, heads)[:, :, 0])
            for index, term in enumerate(readers.terms):
                pattern, attention = attention_effects(
                    readers.patterns[number], term.heads[number], example, slot, *moved
                )
                sums.pattern[index] += pattern.to(wide)
                sums.attention[index] += attention.to(wide)
        return torch.zeros_like(query).transpose(1, 2), None

    entry = resid(site.start - 1)
    start = None
    if site.start > 0:
        start = Start(site.start, held(entry) + (vector[:, None] if entry.layer >= site.layer else 0))
    ids = states.batch.clean.ids[example, slot][:, None]
    clean = states.batch.clean
    tokens = Tokens(ids, torch.ones_like(ids), clean.positions[example, slot], clean.vocabulary)
    with attending(spliced.model, attend, spliced.architecture):
        sites = all_sites(spliced.architecture.n_layers)
        logits = spliced.run(tokens, force, sites=sites, start=start, answers_only=True)
    last = (slot == states.batch.clean.last[example]).to(wide)
    metric = last * (states.objective.select(example)(logits) - states.metric_clean[example]).to(wide)
    return sums._replace(metric=metric.expand(len(readers.terms), -1))


def attention_effects(
    pattern: Pattern, gradient: Tensor, example: Tensor, slot: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """<gradient, change of the heads' output> [n] when a position takes this query, key and value.

    Position `slot` [n] of `example` [n]; query, key, value [n, head, width]. Twice: with the values
    held, and with the value moved too. The position's own row of the pattern is computed anew; in
    the rows that look back at it one logit moves, in closed form.
    """
    each = torch.arange(len(slot), device=slot.device)
    logits = pattern.logits()
    gamma = gradient @ pattern.value.transpose(-1, -2)
    others_total, others_mean = without_each(logits, gamma)
    slots = torch.arange(logits.shape[2], device=slot.device)

    def column(table: Tensor) -> Tensor:
        return table[example, :, :, slot]  # [n, head, query slot]

    looks = column(pattern.visible.expand_as(logits)) & (slots != slot[:, None])[:, None]
    before, mean = column(logits), column(others_mean)
    after = pattern.score((pattern.query[example] * key[:, :, None]).sum(-1))
    weight_before = torch.sigmoid(before - column(others_total))
    weight_after = torch.sigmoid(after - column(others_total))
    gamma_before = column(gamma)
    gamma_after = (gradient[example] * value[:, :, None]).sum(-1)
    base = weight_before * (gamma_before - mean)
    held = torch.where(looks, weight_after * (gamma_before - mean) - base, 0.0).sum((1, 2))
    moved = torch.where(looks, weight_after * (gamma_after - mean) - base, 0.0).sum((1, 2))

    own_key = _with(pattern.key[example], each, slot, key)
    own_visible = pattern.visible.expand_as(logits)[example, :, slot]
    own_logits = pattern.score((query[:, :, None] * own_key).sum(-1)).masked_fill(~own_visible, -torch.inf)
    own_gamma = gamma[example, :, slot]  # [n, head, key slot]
    was = (logits[example, :, slot].softmax(-1) * own_gamma).sum((1, 2))
    weights = own_logits.softmax(-1)
    own_gamma_moved = own_gamma.clone()
    own_gamma_moved[each, :, slot] = (gradient[example, :, slot] * value).sum(-1)
    held = held + (weights * own_gamma).sum((1, 2)) - was
    moved = moved + (weights * own_gamma_moved).sum((1, 2)) - was
    return held, moved


def _with(table: Tensor, each: Tensor, slot: Tensor, row: Tensor) -> Tensor:
    """A copy of table [n, head, slot, width] with one slot of each n replaced by row [n, head, width]."""
    table = table.clone()
    table[each, :, slot] = row
    return table
