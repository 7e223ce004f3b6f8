"""Forwards of every family written out in plain tensors, for two runs at once and a change between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from featcircuits.model.architecture import architecture_of
from featcircuits.model.sites import EMBED, Site, resid


@dataclass
class Pair:
    """A value in the clean and the corrupted run, and a change of it that is carried from op to op."""

    clean: Tensor
    other: Tensor
    change: Tensor

    def __add__(self, b: Pair) -> Pair:
        return Pair(self.clean + b.clean, self.other + b.other, self.change + b.change)

    def affine(self, f: Callable[[Tensor], Tensor]) -> Pair:
        return Pair(f(self.clean), f(self.other), f(self.change) - f(torch.zeros_like(self.change)))

    def times(self, b: Pair, f: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Pair:
        """A product: mean(a) db + mean(b) da."""
        change = f((self.clean + self.other) / 2, b.change) + f(self.change, (b.clean + b.other) / 2)
        return Pair(f(self.clean, b.clean), f(self.other, b.other), change)

    def each(self, f: Callable[[Tensor], Tensor]) -> Pair:
        """Elementwise: (f(other) - f(clean)) / (other - clean), and the slope where both are equal."""
        gap, before, after = self.other - self.clean, f(self.clean), f(self.other)
        with torch.enable_grad():
            leaf = self.clean.detach().requires_grad_()
            slope = torch.autograd.grad(f(leaf).sum(), leaf)[0]
        slope = torch.where(gap == 0, slope, (after - before) / torch.where(gap == 0, 1.0, gap))
        return Pair(before, after, self.change * slope)

    def softmax(self, visible: Tensor) -> Pair:
        """dp = L (dl - sum(L dl) / sum(L)) with L = (p' - p) / (log p' - log p)."""
        p, p2 = (x.masked_fill(~visible, -torch.inf).softmax(-1) for x in (self.clean, self.other))
        logs = torch.where(visible, p2.log() - p.log(), 0.0)
        means = torch.where(logs.abs() < 1e-9, p, (p2 - p) / torch.where(logs == 0, 1.0, logs))
        centre = (means * self.change).sum(-1, keepdim=True) / means.sum(-1, keepdim=True)
        return Pair(p, p2, means * (self.change - centre))


def normed(x: Pair, norm: Any) -> Pair:
    if norm.centred:
        x = x.affine(lambda v: v - v.mean(-1, keepdim=True))
    scale = x.times(x).affine(lambda v: v.mean(-1, keepdim=True) + norm.eps).each(torch.rsqrt)
    gain = 1 + norm.weight if norm.from_one else norm.weight
    return x.times(scale).affine(lambda v: v * gain + (0 if norm.bias is None else norm.bias))


def projected(x: Pair, module: Any) -> Pair:
    if type(module).__name__ == "Conv1D":  # GPT-2 keeps its matrices transposed
        return x.affine(lambda v: v @ module.weight + module.bias)
    return x.affine(lambda v: linear(v, module.weight, module.bias))


def heads(x: Pair, count: int) -> Pair:
    """[example, slot, heads * width] -> [example, head, slot, width]"""
    return x.affine(lambda v: v.unflatten(-1, (count, -1)).transpose(1, 2))


def rotated(x: Pair, angles: tuple[Tensor, Tensor] | None) -> Pair:
    if angles is None:
        return x
    cos, sin = angles[0][:, None], angles[1][:, None]
    width = cos.shape[-1]

    def turn(v: Tensor) -> Tensor:
        first, second = v[..., :width].chunk(2, -1)
        return torch.cat([v[..., :width] * cos + torch.cat([-second, first], -1) * sin, v[..., width:]], -1)

    return x.affine(turn)


def queries_keys_values(attention: Any, x: Pair, config: Any) -> tuple[Pair, Pair, Pair]:
    n_heads, n_groups = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    if hasattr(attention, "c_attn"):
        return tuple(heads(part, n_heads) for part in split(projected(x, attention.c_attn), [config.n_embd] * 3))  # type: ignore[return-value]
    if hasattr(attention, "query_key_value"):
        width = config.hidden_size // n_heads
        return tuple(split(heads(projected(x, attention.query_key_value), n_heads), [width] * 3))  # type: ignore[return-value]
    if hasattr(attention, "qkv_proj"):
        width = config.hidden_size // n_heads
        parts = split(projected(x, attention.qkv_proj), [width * n for n in (n_heads, n_groups, n_groups)])
    else:
        parts = [projected(x, getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")]
    whole = hasattr(attention, "q_norm") and attention.q_norm.weight.shape[0] > attention.head_dim  # OLMo 2
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    if whole:
        parts = [normed(parts[0], norms[0]), normed(parts[1], norms[1]), parts[2]]
    query, key, value = (heads(part, n) for part, n in zip(parts, (n_heads, n_groups, n_groups), strict=True))
    if norms[0] is not None and not whole:
        query, key = normed(query, norms[0]), normed(key, norms[1])
    return query, key, value


def split(x: Pair, sizes: list[int]) -> list[Pair]:
    parts = (v.split(sizes, -1) for v in (x.clean, x.other, x.change))
    return [Pair(*part) for part in zip(*parts, strict=True)]


def attended(model: PreTrainedModel, attention: Any, x: Pair, angles: Any, visible: Tensor) -> Pair:
    config = model.config
    query, key, value = queries_keys_values(attention, x, config)
    query, key = rotated(query, angles), rotated(key, angles)
    groups = query.clean.shape[1] // key.clean.shape[1]
    key, value = (part.affine(lambda v: v.repeat_interleave(groups, 1)) for part in (key, value))
    scale = getattr(attention, "scaling", 1.0)  # GPT-Neo has none
    scores = query.times(key, lambda a, b: a @ b.mT).affine(lambda v: v * scale)
    if getattr(attention, "attention_type", "global") == "local":
        visible = visible.triu(1 - config.window_size)
    cap = getattr(config, "attn_logit_softcapping", None)
    scores = scores if cap is None else scores.each(lambda v: cap * torch.tanh(v / cap))
    output = scores.softmax(visible).times(value, torch.matmul).affine(lambda v: v.transpose(1, 2).flatten(2))
    out = next(
        getattr(attention, name) for name in ("c_proj", "dense", "o_proj", "out_proj") if hasattr(attention, name)
    )
    return projected(output, out)


def mlp_of(mlp: Any, x: Pair) -> Pair:
    if hasattr(mlp, "c_fc"):
        return projected(projected(x, mlp.c_fc).each(mlp.act), mlp.c_proj)
    if hasattr(mlp, "dense_h_to_4h"):
        return projected(projected(x, mlp.dense_h_to_4h).each(mlp.act), mlp.dense_4h_to_h)
    if hasattr(mlp, "gate_up_proj"):
        both = projected(x, mlp.gate_up_proj)
        gate, up = split(both, [both.clean.shape[-1] // 2] * 2)
        return projected(gate.each(mlp.activation_fn).times(up), mlp.down_proj)
    return projected(projected(x, mlp.gate_proj).each(mlp.act_fn).times(projected(x, mlp.up_proj)), mlp.down_proj)


def logits(model: PreTrainedModel, clean: Tensor, other: Tensor, site: Site, direction: Tensor) -> Pair:
    """[example, slot, vocabulary] of both runs, and what a change `direction` at a site becomes there.

    The model's norms are those of tests/test_propagation.py, so that everything is in float64.
    """
    architecture, config = architecture_of(model), model.config
    embed = architecture.module(model, EMBED)
    x = Pair(embed(clean), embed(other), torch.zeros_like(embed(clean)))

    def passing(at: Site, value: Pair) -> Pair:
        return Pair(value.clean, value.other, value.change + direction) if at == site else value

    x = passing(EMBED, x)
    slots = torch.arange(clean.shape[1])
    if config.model_type in ("gpt2", "gpt_neo"):
        x = x.affine(lambda v: v + model.transformer.wpe.weight[slots])
    visible = torch.ones(len(slots), len(slots), dtype=torch.bool).tril()
    for number, layer in enumerate(architecture.layers(model)):
        x = block(model, number, layer, x, visible, passing)
    x = normed(x, model.get_submodule(architecture.family.final_norm))
    x = projected(x, architecture.unembedding(model))
    cap = getattr(config, "final_logit_softcapping", None)
    return x if cap is None else x.each(lambda v: cap * torch.tanh(v / cap))


def block(model: PreTrainedModel, number: int, layer: Any, x: Pair, visible: Tensor, passing: Any) -> Pair:
    names: Mapping[str, tuple[str | None, str | None, str | None, str | None]] = {
        "gpt2": ("ln_1", None, "ln_2", None),
        "gpt_neo": ("ln_1", None, "ln_2", None),
        "gpt_neox": ("input_layernorm", None, "post_attention_layernorm", None),
        "olmo2": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
        "gemma2": (
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
        ),
    }  # fmt: skip
    names = {**names, "gemma3_text": names["gemma2"]}
    kind = model.config.model_type
    before_attn, after_attn, before_mlp, after_mlp = names.get(
        kind, ("input_layernorm", None, "post_attention_layernorm", None)
    )

    def maybe(name: str | None, value: Pair) -> Pair:
        return value if name is None else normed(value, getattr(layer, name))

    attention = next(getattr(layer, name) for name in ("attn", "attention", "self_attn") if hasattr(layer, name))
    attention = getattr(attention, "attention", attention)  # GPT-Neo wraps it
    written = attended(model, attention, maybe(before_attn, x), angles_of(model, number, x), visible)
    written = passing(Site(number, "attn"), maybe(after_attn, written))
    middle = x + written if architecture_of(model).sequential else x
    outcome = passing(Site(number, "mlp"), maybe(after_mlp, mlp_of(layer.mlp, maybe(before_mlp, middle))))
    return passing(resid(number), x + written + outcome)


def angles_of(model: PreTrainedModel, number: int, x: Pair) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines of the positions, as the model has them."""
    kind = model.config.model_type
    if kind in ("gpt2", "gpt_neo"):
        return None
    rotary = (model.gpt_neox if kind == "gpt_neox" else model.model).rotary_emb
    positions = torch.arange(x.clean.shape[1])[None]
    if kind == "gemma3_text":
        return rotary(x.clean, positions, model.config.layer_types[number])
    return rotary(x.clean, positions)
