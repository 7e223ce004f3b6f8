"""A GPT-2 whose weights are set by hand on orthogonal features, and dictionaries that hold exactly these features.

Feature i is the direction e_2i - e_2i+1, so the mean that LayerNorm subtracts is 0. LayerNorm's epsilon is 2^80 and
its weight 2^40, so that it divides by 2^40 whatever the stream holds: in float64 the norm is the identity to the last
bit, and the model computes what its heads, neurons and readout say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import featcircuits as fc
from featcircuits.dictionaries import Dictionary, relu
from featcircuits.splicing.spliced import SplicedModel

LENGTH = 4
"""Tokens of each prompt; position 0 has no features, and the last one is where the model answers."""
POSITIONS = tuple(f"at{position}" for position in range(LENGTH))
"""The features that position embeddings write."""
_HEAD, _HEADS = 16, 2
_WIDTH = _HEAD * _HEADS
_SCALE = 2.0**40
_ONE, _MATCH, _VALUES = 0, 1, 4
"""The dimensions of a head: for the idle score, for matches, and the first of its values."""
Weights = Mapping[str, float]


@dataclass(frozen=True)
class Head:
    """At the last position it attends to where the feature `key` is and copies `values` from there.

    Else, and at all other positions, it attends to position 0, which has nothing to copy.
    Logits of attention: `match` times the feature `key`, and `idle` for position 0.
    """

    layer: int
    key: str
    values: Sequence[str]
    idle: float = 1024.0
    match: float = 4096.0


@dataclass(frozen=True)
class Neuron:
    """relu(sum of weight x feature + bias), which writes the feature `writes`; a negative weight subtracts from it."""

    layer: int
    reads: Weights
    writes: str
    bias: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Design:
    """What a model computes. `answers`: the weights with which each answer's logit reads features at the end."""

    features: Sequence[str]
    answers: Mapping[str, Weights]
    heads: Sequence[Head] = ()
    neurons: Sequence[Neuron] = ()
    n_layers: int = 2
    decoys: Mapping[str, str] = field(default_factory=dict)
    """Decoy -> the feature that it half resembles; the dictionaries hold it, the model does not."""

    @property
    def names(self) -> tuple[str, ...]:
        """All features; a feature's place among them is its number at every site."""
        return (*POSITIONS, *self.features)


def direction(number: int) -> Tensor:
    """What one unit of a feature writes [width]."""
    row = torch.zeros(_WIDTH, dtype=torch.float64)
    row[2 * number], row[2 * number + 1] = 1.0, -1.0
    return row


def build(design: Design, tokens: Sequence[Weights]) -> PreTrainedModel:
    """The model. Token i writes the features `tokens[i]`; the answers, in order, are the last tokens."""
    config = transformers.GPT2Config(
        vocab_size=len(tokens), n_embd=_WIDTH, n_layer=design.n_layers, n_head=_HEADS, n_positions=LENGTH,
        n_inner=max(1, len(design.neurons)), activation_function="relu", layer_norm_epsilon=_SCALE**2,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.GPT2LMHeadModel(config).double().eval()
    row = {name: direction(number) for number, name in enumerate(design.names)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(_SCALE if "ln_" in name and name.endswith("weight") else 0.0)
        for token, weights in enumerate(tokens):
            model.transformer.wte.weight[token] = _sum(row, weights)
        for position, name in enumerate(POSITIONS):
            model.transformer.wpe.weight[position] = row[name]
        for token, weights in enumerate(design.answers.values(), len(tokens) - len(design.answers)):
            model.lm_head.weight[token] = _sum(row, weights) / 2
        blocks: Any = model.transformer.h
        for layer in range(design.n_layers):
            for number, head in enumerate(head for head in design.heads if head.layer == layer):
                _set_head(blocks[layer].attn, number, head, row)
        for number, neuron in enumerate(design.neurons):
            _set_neuron(blocks[neuron.layer].mlp, number, neuron, row)
    return model


def _sum(row: Mapping[str, Tensor], weights: Weights) -> Tensor:
    return sum((weight * row[name] for name, weight in weights.items()), torch.zeros(_WIDTH, dtype=torch.float64))


def _set_head(attention: Any, number: int, head: Head, row: Mapping[str, Tensor]) -> None:
    """Columns are all queries, keys, values; a feature is read by half its direction, whose square is 2."""
    queries, keys, values = (kind * _WIDTH + number * _HEAD for kind in range(3))
    weight, bias = attention.c_attn.weight, attention.c_attn.bias
    bias[queries + _ONE] = 1.0
    weight[:, keys + _ONE] = row[POSITIONS[0]] / 2 * head.idle * _HEAD**0.5
    weight[:, queries + _MATCH] = row[POSITIONS[-1]] / 2
    weight[:, keys + _MATCH] = row[head.key] / 2 * head.match * _HEAD**0.5
    for place, name in enumerate(head.values):
        weight[:, values + _VALUES + place] = row[name] / 2
        attention.c_proj.weight[number * _HEAD + _VALUES + place] = row[name]


def _set_neuron(mlp: Any, number: int, neuron: Neuron, row: Mapping[str, Tensor]) -> None:
    mlp.c_fc.weight[:, number] = _sum(row, neuron.reads) / 2
    mlp.c_fc.bias[number] = neuron.bias
    mlp.c_proj.weight[number] = neuron.weight * row[neuron.writes]


def dictionary(design: Design) -> Dictionary:
    """A feature reads and writes its own direction; a decoy fires at half its feature and writes half of it."""
    number = {name: place for place, name in enumerate(design.names)}
    W_dec = torch.stack([direction(place) for place in number.values()])
    W_enc = W_dec.clone() / 2
    for decoy, feature in design.decoys.items():
        W_dec[number[decoy]] = (direction(number[feature]) + direction(number[decoy])) / 2
        W_enc[number[decoy]] = direction(number[feature]) / 4
    zeros = torch.zeros(len(number), dtype=torch.float64)
    return relu(W_enc.T.contiguous(), zeros, W_dec, torch.zeros(_WIDTH, dtype=torch.float64))


def spliced(design: Design, tokens: Sequence[Weights]) -> SplicedModel:
    """The model with dictionaries at the embedding and at each layer's attn, mlp and resid.

    `fc.load` does not try the family's row here, since modules without a part in the design pass nothing on.
    """
    layers = range(design.n_layers)
    sites = ["embed", *(f"{kind}_{layer}" for layer in layers for kind in ("attn", "mlp", "resid"))]
    return fc.load(build(design, tokens), dict.fromkeys(sites, dictionary(design)), check=False)
