"""Empty models of three families, and where their heads and neurons keep what a design sets.

Every weight is 0, but for norms: LayerNorm's and RMSNorm's epsilon is 2^80 and their weight 2^40, so that they divide
by 2^40 whatever the stream holds. In float64 such a LayerNorm is the identity to the last bit, if the stream's mean is
0; transformers' RMSNorm computes in float32, so there it is the identity for numbers that float32 holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

LENGTH = 4
"""Tokens of each prompt; position 0 has no features, and the last one is where the model answers."""
HEAD, HEADS = 16, 2
WIDTH = HEAD * HEADS
SCALE = 2.0**40
_STILL = 1e30
"""A base of rotary frequencies with which the last dimensions of queries and keys do not turn."""


class Block(NamedTuple):
    """Views of one block's parameters: what is written to them is in the model."""

    queries_keys_values: tuple[Tensor, ...]
    """Three of [HEADS, HEAD, WIDTH]."""
    biases: tuple[Tensor, ...]
    """Three of [HEADS, HEAD]."""
    heads_write: Tensor
    """[HEADS, HEAD, WIDTH]"""
    neurons_read: Tensor
    """[neurons, WIDTH]"""
    neuron_biases: Tensor
    """[neurons]"""
    neurons_write: Tensor
    """[neurons, WIDTH]"""


class Shape(NamedTuple):
    """One family: (tokens, layers, neurons) -> a model with random weights; a model and a layer -> its block."""

    make: Callable[[int, int, int], PreTrainedModel]
    block: Callable[[Any, int], Block]


def _gpt2(tokens: int, layers: int, neurons: int) -> PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=tokens, n_embd=WIDTH, n_layer=layers, n_head=HEADS, n_positions=LENGTH, n_inner=neurons,
        activation_function="relu", layer_norm_epsilon=SCALE**2,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return transformers.GPT2LMHeadModel(config)


def _gpt2_block(model: Any, layer: int) -> Block:
    """Its linear layers have the input as their first dimension; columns are all queries, keys, values."""
    block = model.transformer.h[layer]
    weight = block.attn.c_attn.weight.view(WIDTH, 3, HEADS, HEAD).permute(1, 2, 3, 0)
    return Block(
        tuple(weight), tuple(block.attn.c_attn.bias.view(3, HEADS, HEAD)),
        block.attn.c_proj.weight.view(HEADS, HEAD, WIDTH),
        block.mlp.c_fc.weight.T, block.mlp.c_fc.bias, block.mlp.c_proj.weight,
    )  # fmt: skip


def _gpt_neox(tokens: int, layers: int, neurons: int) -> PreTrainedModel:
    config = transformers.GPTNeoXConfig(
        vocab_size=tokens, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=neurons, max_position_embeddings=LENGTH, hidden_act="relu", layer_norm_eps=SCALE**2,
        rope_parameters={"rope_type": "default", "rope_theta": _STILL, "partial_rotary_factor": 1.0},
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config)


def _gpt_neox_block(model: Any, layer: int) -> Block:
    """Its rows are the queries, keys, values of one head after the other."""
    block = model.gpt_neox.layers[layer]
    weight = block.attention.query_key_value.weight.view(HEADS, 3, HEAD, WIDTH).transpose(0, 1)
    bias = block.attention.query_key_value.bias.view(HEADS, 3, HEAD).transpose(0, 1)
    mlp = block.mlp
    return Block(
        tuple(weight), tuple(bias), block.attention.dense.weight.T.unflatten(0, (HEADS, HEAD)),
        mlp.dense_h_to_4h.weight, mlp.dense_h_to_4h.bias, mlp.dense_4h_to_h.weight.T,
    )  # fmt: skip


def _llama(tokens: int, layers: int, neurons: int) -> PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=tokens, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, head_dim=HEAD, intermediate_size=neurons, max_position_embeddings=LENGTH,
        hidden_act="relu", rms_norm_eps=SCALE**2, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": _STILL}, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def _llama_block(model: Any, layer: int) -> Block:
    """The other factor of each gated neuron is 1."""
    attention, mlp = model.model.layers[layer].self_attn, model.model.layers[layer].mlp
    modules = (attention.q_proj, attention.k_proj, attention.v_proj)
    mlp.up_proj.bias.fill_(1.0)
    return Block(
        tuple(one.weight.view(HEADS, HEAD, WIDTH) for one in modules),
        tuple(one.bias.view(HEADS, HEAD) for one in modules),
        attention.o_proj.weight.T.unflatten(0, (HEADS, HEAD)),
        mlp.gate_proj.weight, mlp.gate_proj.bias, mlp.down_proj.weight.T,
    )  # fmt: skip


SHAPES: Mapping[str, Shape] = {
    "gpt2": Shape(_gpt2, _gpt2_block),
    "gpt_neox": Shape(_gpt_neox, _gpt_neox_block),
    "llama": Shape(_llama, _llama_block),
}
"""The families, by transformers' names of them. Only GPT-2 has position embeddings."""


def empty(shape: str, tokens: int, layers: int, neurons: int) -> PreTrainedModel:
    """A model in float64 that writes nothing anywhere."""
    model = SHAPES[shape].make(tokens, layers, neurons).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith("weight") and ("ln_" in name or "norm" in name)
            parameter.fill_(SCALE if norm else 0.0)
    return model
