"""One hop of relevance patching is the direct-contribution decomposition of He et al. (2024).

With norm scales, attention patterns and act(z) / z held at their clean values, what reaches a
downstream feature is a sum over what stands upstream. The formulas are written out for GPT-2.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries import Affine
from featcircuits.dictionaries.decomposition import encode
from featcircuits.estimators.relp import RelevancePatching
from featcircuits.model.sites import Site, resid
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import HEADS, WIDTH, random_task, spliced_model, tiny_model

LAYER = 1
RULES = "ln+identity_exact+half+ah"


def norm_of(norm: torch.nn.LayerNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """(scale [..., 1] of the clean run, gain): a part's share of the norm is centred(part) * scale * gain."""
    variance = x.var(-1, keepdim=True, unbiased=False)
    return (variance + norm.eps).rsqrt(), norm.weight


def through_norm(norm: torch.nn.LayerNorm, x: Tensor, part: Tensor) -> Tensor:
    scale, gain = norm_of(norm, x)
    return (part - part.mean(-1, keepdim=True)) * scale * gain


def attention_pattern(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pattern [head, query, key], W_V, b_V) of a GPT-2 block on the stream x [position, width]."""
    query, key, _ = (block.ln_1(x) @ block.attn.c_attn.weight + block.attn.c_attn.bias).split(WIDTH, -1)
    heads = [part.unflatten(-1, (HEADS, -1)).transpose(0, 1) for part in (query, key)]
    logits = heads[0] @ heads[1].transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    return logits.masked_fill(~causal, -torch.inf).softmax(-1), weight[:, 2 * WIDTH :], bias[2 * WIDTH :]


def attention_part(block: Any, x: Tensor, part: Tensor) -> Tensor:
    """What a part [position, width] of the stream contributes to the attention's output, biases aside."""
    pattern, W_V, _ = attention_pattern(block, x)
    values = (through_norm(block.ln_1, x, part) @ W_V).unflatten(-1, (HEADS, -1)).transpose(0, 1)
    return (pattern @ values).transpose(0, 1).flatten(-2) @ block.attn.c_proj.weight


def mlp_part(block: Any, x: Tensor, part: Tensor) -> Tensor:
    """The same for the MLP, whose activation passes on act(z) / z."""
    z = block.ln_2(x) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
    share = block.mlp.act(z) / z
    return (through_norm(block.ln_2, x, part) @ block.mlp.c_fc.weight * share) @ block.mlp.c_proj.weight


PARTS = {"attn": attention_part, "mlp": mlp_part}


@pytest.fixture
def traced() -> tuple[SplicedModel, fc.Task]:
    model = tiny_model("gpt2")
    return spliced_model(model, sites=["resid_0", f"attn_{LAYER}", f"mlp_{LAYER}"]), random_task(1, 4)


def stream_into(spliced: SplicedModel, task: fc.Task, kind: str) -> tuple[Tensor, Tensor]:
    """(what the module's norm reads, resid_0), each [position, width], in the clean run."""
    batch = task.batch([0])
    _, seen = spliced.record(batch.clean, [resid(0), Site(LAYER, "attn")])
    before = seen[resid(0)][0]
    return (before if kind == "attn" else before + seen[Site(LAYER, "attn")][0]), before


@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_edges_are_the_written_out_contributions(kind: str, traced: tuple[SplicedModel, fc.Task]) -> None:
    spliced, task = traced
    block: Any = spliced.architecture.layers(spliced.model)[LAYER]
    x, before = stream_into(spliced, task, kind)
    site, target = resid(0), Site(LAYER, kind)
    up, down = spliced.dictionaries[site], spliced.dictionaries[target]
    features, error = encode(up, before)
    effects = fc.node_effects(spliced, task, RelevancePatching(RULES), baseline="zero")
    index, values = fc.edge_effects(spliced, task, effects, node_threshold=0.0).coo(site, target)
    _, seen = spliced.record(task.batch([0]).clean, [target])
    coefficient = -effects.features(target)[0] / down.encode(seen[target])[0]
    compared = 0
    for (p, d, q, u), value in zip(index.T.tolist(), values.tolist(), strict=True):
        if d == down.n_features:
            continue
        part = torch.zeros_like(before)
        part[q] = error[q] if u == up.n_features else features[q, u] * up.decoder_rows(torch.tensor([u]))[0]
        contribution = PARTS[kind](block, x, part)[p] @ down.encoder_rows(torch.tensor([d]))[0]
        # ablating to zero takes the contribution away
        assert value == pytest.approx(-(coefficient[p, d] * contribution).item(), rel=1e-8, abs=1e-10)
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_contributions_and_biases_add_up_to_the_pre_activation(kind: str, traced: tuple[SplicedModel, fc.Task]) -> None:
    spliced, task = traced
    block: Any = spliced.architecture.layers(spliced.model)[LAYER]
    x, before = stream_into(spliced, task, kind)
    up, down = spliced.dictionaries[resid(0)], spliced.dictionaries[Site(LAYER, kind)]
    assert isinstance(up, Affine)
    assert isinstance(down, Affine)
    features, error = encode(up, before)
    parts = [features[:, u, None] * up.W_dec[u] for u in range(up.n_features)]
    parts += [error, up.b_dec.expand_as(error), x - before]
    total = torch.stack([PARTS[kind](block, x, part) for part in parts]).sum(0)
    if kind == "attn":
        _, W_V, b_V = attention_pattern(block, x)
        biases = (block.ln_1.bias @ W_V + b_V) @ block.attn.c_proj.weight + block.attn.c_proj.bias
    else:
        z = block.ln_2(x) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
        share = block.mlp.act(z) / z
        inner = block.ln_2.bias @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
        biases = (inner * share) @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
    _, seen = spliced.record(task.batch([0]).clean, [Site(LAYER, kind)])
    assert torch.allclose(total + biases, seen[Site(LAYER, kind)][0], atol=1e-10)
    pre = (total + biases) @ down.W_enc + down.b_enc
    assert torch.allclose(down.activation(pre), down.encode(seen[Site(LAYER, kind)][0]), atol=1e-10)
