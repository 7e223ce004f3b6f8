"""Edges between transcoders where attention patterns and norms are held: matrix products in place of backward passes.

If every MLP is spliced by a transcoder and nothing else but the embedding is, only norms and attentions lie between
what a transcoder reads and the sites before it. With patterns A and the norms' scales held (rules `ah` and `ln`) an
attention is linear in the stream x before it, with matrices V and O and scales s and t of each token:

    out[q] = t[q] (sum over heads h and slots k of A_h[q, k] s[k] x[k] V_h) O_h

So v_d J comes from a few matrix products a layer. They take only the slots up to the target's own, and only its own
slot until the first attention. Matrices and scales are read off the model's own backward pass, so no family needs a
row of its own; and what they give is compared with a backward pass through the whole model before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.effects.cut import Cut
from featcircuits.effects.ends import Ends
from featcircuits.effects.products import NUMBERS, Products
from featcircuits.effects.targets import Targets
from featcircuits.model.connections import Connection, Through
from featcircuits.model.sites import EMBED, READ_ONLY, Site
from featcircuits.model.tokens import Tokens
from featcircuits.propagation.attention_kernels import Pattern, around_attention, per_head, why_closed
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States

_TOGETHER = 24
"""Targets that go back together: enough for fast products, few enough to lie at near positions."""
_ROUNDING: Mapping[torch.dtype, float] = {torch.float32: 1e-4, torch.float64: 1e-6}
"""The largest relative difference to the backward pass; half precision always goes by the backward pass."""


class _Linear(NamedTuple):
    """A map of each token, of which the backward pass is v -> scale * (v @ matrix)."""

    matrix: Tensor
    """[width of the result, width of the argument]"""
    scale: Tensor
    """[example, slot]"""


class _Attention(NamedTuple):
    pattern: Tensor
    """t[q] A_h[q, k] s[k] [example, head, q, k]"""
    value: Tensor
    """V [width of all values, width]"""
    out: Tensor
    """O [width, width of all heads]"""


class _Seen(NamedTuple):
    """One run, cut at the embedding, the heads, the attentions and the MLPs: values by leaf, in forward order."""

    leaves: dict[Site, Tensor]
    arrived: dict[Site, Tensor]
    values: list[Tensor]
    """[example, slot, width of all values] of each layer"""
    patterns: list[Tensor]


class Held(NamedTuple):
    """The ways between transcoders in one batch."""

    attention: Sequence[_Attention]
    norms: Sequence[_Linear]
    """From the stream to what each transcoder reads; the identity if that is the stream itself"""
    dictionaries: Mapping[Site, Dictionary]
    sequential: bool

    def products(self, site: Site, into: Sequence[Connection], targets: Targets) -> Iterator[Products]:
        """v_d J of targets of a transcoder, for the connections into it."""
        slots = self.norms[0].scale.shape[1]
        arcs = {arc.upstream: arc for arc in into}
        for part in _near(targets.row, slots, targets.v.shape[1]):
            row, node = targets.row[part], targets.node[part]
            example, slot = int(row[0]) // slots, row % slots
            for upstream, stream in self._back(site.layer, example, slot, targets.v[part], min(arcs)):
                if upstream in arcs:
                    yield _products(arcs[upstream], slots, row, node, stream)

    def _back(self, layer: int, example: int, slot: Tensor, v: Tensor, last: Site) -> Iterator[tuple[Site, Tensor]]:
        """v J at the stream after each site, back to `last`: [n, width] at the own slot, later [n, slot, width]."""
        stream = self._read(layer, example, slot, v)
        if self.sequential:
            stream = self._attended(layer, example, slot, stream)
        for before in range(layer - 1, -2, -1):
            site = Site(before, "mlp") if before >= 0 else EMBED
            yield site, stream
            if site <= last:
                return
            past = self._past(site, example, slot, stream)
            if past is not None and self.sequential:  # attention comes before the MLP
                stream, past = stream + past, None
            stream = self._attended(before, example, slot, stream)
            if past is not None:
                stream = _added(stream, past, slot)

    def _read(self, layer: int, example: int, slot: Tensor, v: Tensor) -> Tensor:
        """Back through the norm before an MLP; v [n, width] at the own slots, or [n, slot, width]."""
        norm = self.norms[layer]
        scale = norm.scale[example, slot] if v.dim() == 2 else norm.scale[example, : v.shape[1]]
        return (v @ norm.matrix) * scale[:, None]

    def _past(self, site: Site, example: int, slot: Tensor, stream: Tensor) -> Tensor | None:
        """Back through the bypass of a skip transcoder."""
        past = self.dictionaries[site].pull_bypass(stream)
        return None if past is None else self._read(site.layer, example, slot, past)

    def _attended(self, layer: int, example: int, slot: Tensor, stream: Tensor) -> Tensor:
        """The stream with what goes back through a layer's attention [n, slot, width]."""
        attention, n = self.attention[layer], len(stream)
        heads = attention.pattern.shape[1]
        width = int(slot.max()) + 1
        pattern = attention.pattern[example, :, :width, :width]
        out = stream @ attention.out
        if stream.dim() == 2:  # one slot: each head passes one vector to all slots that it attends to
            out = out.view(n, heads, -1)
            value = per_head(attention.value.view(1, -1, out.shape[-1], stream.shape[-1]), heads)[0]
            passed = torch.bmm(out.transpose(0, 1), value).transpose(0, 1)
            moved = torch.bmm(pattern[:, slot].permute(1, 2, 0), passed)
            return _added(moved, stream, slot)
        out = out.view(n, width, heads, -1).permute(2, 1, 0, 3).flatten(2)
        moved = torch.bmm(pattern.transpose(1, 2), out).view(heads, width, n, -1)
        moved = moved.view(-1, heads * moved.shape[-1] // len(attention.value), *moved.shape[1:]).sum(1)
        moved = moved.permute(2, 1, 0, 3).flatten(2)
        return torch.addmm(stream.flatten(0, 1), moved.flatten(0, 1), attention.value).view_as(stream)


def held_ways(spliced: SplicedModel, states: States, cut: Cut, arcs: Sequence[Connection], ends: Ends) -> Held | None:
    """The ways between the transcoders of a batch; None where only backward passes give them, or are as cheap."""
    top = max(spliced.sites)
    if not _fits(spliced, cut, top, ends):
        return None
    clean = states.batch.clean.to(spliced.device)
    held = _read_off(spliced, _seen(spliced, _one_token(clean)), _seen(spliced, clean), states.sites[top].change.dtype)
    into = [arc for arc in arcs if arc.downstream == top]
    return held if held is not None and _agrees(held, top, into, cut, clean) else None


def _fits(spliced: SplicedModel, cut: Cut, top: Site, ends: Ends) -> bool:
    """Whether only attentions and norms lie between transcoders, and are worth reading off."""
    mlps = [site for site in spliced.sites if site.kind == "mlp"]
    if not mlps or any(site != EMBED and not spliced.dictionaries[site].transcodes for site in spliced.sites):
        return False
    if [site.layer for site in mlps] != list(range(top.layer + 1)):
        return False
    read = cut.incoming[top].read
    n_targets = sum(int(end.target_entries.sum() + end.target_errors.sum()) for end in ends.values())
    worth = n_targets * read.shape[1] > 4 * read.shape[2]
    return worth and read.dtype in _ROUNDING and why_closed(spliced.model, spliced.architecture) is None


def _one_token(clean: Tokens) -> Tokens:
    last = int(clean.last[0])
    return Tokens(clean.ids[:1, last : last + 1], clean.mask[:1, last : last + 1])


def _seen(spliced: SplicedModel, tokens: Tokens) -> _Seen:
    """A run cut before and after each part."""
    seen = _Seen({}, {}, [], [])

    def seeing(kernel: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **rest: Any) -> Any:
        output, weights = kernel(module, query, key, value, *args, **rest)
        pattern = weights
        if pattern is None:
            pattern = Pattern.of(module, query, key, value, *args, **rest).logits().softmax(-1).nan_to_num(0.0)
        seen.values.append(value.transpose(1, 2).flatten(2).to(spliced.device))
        seen.patterns.append(pattern.detach().to(spliced.device))
        return output, weights

    def cut(site: Site, x: Tensor) -> Tensor:
        seen.arrived[site] = x
        if site.kind in READ_ONLY:
            return x
        seen.leaves[site] = x.detach().requires_grad_()
        return seen.leaves[site]

    layers = range(max(spliced.sites).layer + 1)
    sites = spliced.with_reads([EMBED, *(Site(n, kind) for n in layers for kind in ("attn_z", "attn", "mlp"))])
    with around_attention(spliced.model, spliced.architecture, seeing):
        spliced.run(tokens, cut, sites=sites, answers_only=True)
    return seen


def _read_off(spliced: SplicedModel, one: _Seen, run: _Seen, dtype: torch.dtype) -> Held | None:
    """Matrices from the run of one token, scales from the whole run; None if a part is no such map."""
    attention, norms = [], []
    for layer in range(max(spliced.sites).layer + 1):
        before = Site(layer - 1, "mlp") if layer else EMBED
        heads, after, read = Site(layer, "attn_z"), Site(layer, "attn"), spliced.read_site(Site(layer, "mlp"))
        near = after if spliced.architecture.sequential else before
        value = _linear((one.values[layer], one.leaves[before]), (run.values[layer], run.leaves[before]), dtype)
        out = _linear((one.arrived[after], one.leaves[heads]), (run.arrived[after], run.leaves[heads]), dtype)
        norm = _linear((one.arrived[read], one.leaves[near]), (run.arrived[read], run.leaves[near]), dtype)
        if value is None or out is None or norm is None:
            return None
        pattern = out.scale[:, None, :, None] * run.patterns[layer].to(dtype) * value.scale[:, None, None, :]
        attention.append(_Attention(pattern, value.matrix, out.matrix))
        norms.append(norm)
    return Held(attention, norms, spliced.dictionaries, spliced.architecture.sequential)


def _linear(one: tuple[Tensor, Tensor], run: tuple[Tensor, Tensor], dtype: torch.dtype) -> _Linear | None:
    """The map from an argument to its result, given as (result, argument) in both runs; None if it mixes tokens or
    is not the same up to a scale at each."""
    result, argument = one
    seeds = torch.eye(result.shape[-1], dtype=result.dtype, device=result.device)[:, None, None]
    (rows,) = torch.autograd.grad(result, argument, seeds, is_grads_batched=True, retain_graph=True)
    matrix = rows[:, 0, 0].to(dtype)

    probe = torch.randn(len(matrix), generator=torch.Generator().manual_seed(0)).to(run[0])
    (found,) = torch.autograd.grad(*run, probe.expand_as(run[0]), retain_graph=True)
    found, once = found.to(dtype), probe.to(dtype) @ matrix
    scale = (found @ once) / (once @ once)
    return _Linear(matrix, scale) if _equal(scale[..., None] * once, found, result.dtype) else None


def _agrees(held: Held, site: Site, into: Sequence[Connection], cut: Cut, clean: Tokens) -> bool:
    """Whether both ways give the same for a vector at each example's last token and the topmost transcoder."""
    read = cut.incoming[site].read
    examples, slots, width = read.shape
    row = torch.arange(examples, device=read.device) * slots + clean.last
    v = torch.randn(examples, width, generator=torch.Generator().manual_seed(0)).to(held.norms[0].matrix)
    seed = torch.zeros_like(read).flatten(0, 1)
    seed[row] = v.to(read.dtype)
    leaves = [cut.leaves[arc.upstream] for arc in into]
    expected = torch.autograd.grad(read, leaves, seed.view_as(read), retain_graph=True)

    found = {arc: torch.zeros_like(seed, dtype=v.dtype) for arc in into}
    for products in held.products(site, into, Targets(row, row, v)):
        reached = products.target_row[:, None]
        if products.connection.through == Through.ATTENTION:
            reached = reached // slots * slots + torch.arange(products.reach, device=row.device)
        found[products.connection][reached.flatten()] = products.table
    return all(
        _equal(found[arc], whole.flatten(0, 1).to(v.dtype), read.dtype)
        for arc, whole in zip(into, expected, strict=True)
    )


def _equal(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results are equal up to rounding, relative to the largest number."""
    return bool((found - expected).abs().max() <= _ROUNDING[dtype] * expected.abs().max())


def _near(row: Tensor, slots: int, width: int) -> Iterator[Tensor]:
    """Indices of targets that go back together: those of one example, by slot."""
    order = row.argsort(stable=True)
    size = max(1, min(_TOGETHER, NUMBERS // (slots * width)))
    for of_example in order.split((row[order] // slots).unique_consecutive(return_counts=True)[1].tolist()):
        yield from of_example.split(size)


def _added(stream: Tensor, own: Tensor, slot: Tensor) -> Tensor:
    """The stream [n, slot, width] with what is at the own slots alone, or at all of them, added."""
    if own.dim() == 3:
        return stream + own
    stream[torch.arange(len(slot), device=slot.device), slot] += own
    return stream


def _products(arc: Connection, slots: int, row: Tensor, node: Tensor, stream: Tensor) -> Products:
    number = torch.arange(len(row), device=row.device)
    if stream.dim() == 2:
        return Products(arc, slots, row, node, stream, number - row, slots)
    reach = stream.shape[1]
    return Products(arc, slots, row, node, stream.flatten(0, 1), number * reach - row // slots * slots, reach)
