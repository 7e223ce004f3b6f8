"""Models whose weights are set by hand on orthogonal features, and dictionaries that hold exactly these features.

Feature i is the direction e_2i - e_2i+1, so the mean that LayerNorm subtracts is 0. Norms are the identity, so the
model computes what its heads, neurons and readout say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import featcircuits as fc
from experiments.planted.shapes import HEAD, LENGTH, SHAPES, WIDTH, Block, empty
from featcircuits.dictionaries import Dictionary, relu
from featcircuits.splicing.spliced import SplicedModel

POSITIONS = tuple(f"at{position}" for position in range(LENGTH))
"""The features that say where a token is."""
_ONE, _MATCH, _VALUES = 6, 7, 4
"""The dimensions of a head: for the idle score, for matches (neither turns), and the first of its values."""
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
    row = torch.zeros(WIDTH, dtype=torch.float64)
    row[2 * number], row[2 * number + 1] = 1.0, -1.0
    return row


def token_ids(prompt: Sequence[int], n_tokens: int, shape: str) -> list[int]:
    """A prompt of numbers below `n_tokens` as the model of this shape knows them (see `build`)."""
    return list(prompt) if shape == "gpt2" else [place * n_tokens + token for place, token in enumerate(prompt)]


def build(design: Design, tokens: Sequence[Weights], shape: str = "gpt2") -> PreTrainedModel:
    """The model. Token i writes the features `tokens[i]`; the answers, in order, are the last tokens.

    Without position embeddings the vocabulary holds all tokens once for each place, and they write their place too.
    """
    row = {name: direction(number) for number, name in enumerate(design.names)}
    written = tokens if shape == "gpt2" else [{**token, place: 1.0} for place in POSITIONS for token in tokens]
    model: Any = empty(shape, len(written), design.n_layers, max(1, len(design.neurons)))
    with torch.no_grad():
        for token, weights in enumerate(written):
            model.get_input_embeddings().weight[token] = _sum(row, weights)
        if shape == "gpt2":
            model.transformer.wpe.weight.copy_(torch.stack([row[name] for name in POSITIONS]))
        for token, weights in enumerate(design.answers.values(), len(written) - len(design.answers)):
            model.get_output_embeddings().weight[token] = _sum(row, weights) / 2
        blocks = [SHAPES[shape].block(model, layer) for layer in range(design.n_layers)]
        for layer, block in enumerate(blocks):
            for number, head in enumerate(head for head in design.heads if head.layer == layer):
                _set_head(block, number, head, row)
        for number, neuron in enumerate(design.neurons):
            _set_neuron(blocks[neuron.layer], number, neuron, row)
    return model


def _sum(row: Mapping[str, Tensor], weights: Weights) -> Tensor:
    return sum((weight * row[name] for name, weight in weights.items()), torch.zeros(WIDTH, dtype=torch.float64))


def _set_head(block: Block, number: int, head: Head, row: Mapping[str, Tensor]) -> None:
    """A feature is read by half its direction, whose square is 2."""
    queries, keys, values = (weight[number] for weight in block.queries_keys_values)
    block.biases[0][number, _ONE] = 1.0
    keys[_ONE] = row[POSITIONS[0]] / 2 * head.idle * HEAD**0.5
    queries[_MATCH] = row[POSITIONS[-1]] / 2
    keys[_MATCH] = row[head.key] / 2 * head.match * HEAD**0.5
    for place, name in enumerate(head.values, _VALUES):
        values[place] = row[name] / 2
        block.heads_write[number, place] = row[name]


def _set_neuron(block: Block, number: int, neuron: Neuron, row: Mapping[str, Tensor]) -> None:
    block.neurons_read[number] = _sum(row, neuron.reads) / 2
    block.neuron_biases[number] = neuron.bias
    block.neurons_write[number] = neuron.weight * row[neuron.writes]


def dictionary(design: Design) -> Dictionary:
    """A feature reads and writes its own direction; a decoy fires at half its feature and writes half of it."""
    number = {name: place for place, name in enumerate(design.names)}
    W_dec = torch.stack([direction(place) for place in number.values()])
    W_enc = W_dec.clone() / 2
    for decoy, feature in design.decoys.items():
        W_dec[number[decoy]] = (direction(number[feature]) + direction(number[decoy])) / 2
        W_enc[number[decoy]] = direction(number[feature]) / 4
    zeros = torch.zeros(len(number), dtype=torch.float64)
    return relu(W_enc.T.contiguous(), zeros, W_dec, torch.zeros(WIDTH, dtype=torch.float64))


def spliced(design: Design, tokens: Sequence[Weights], shape: str = "gpt2") -> SplicedModel:
    """The model with dictionaries at the embedding and at each layer's attn, mlp and resid.

    `fc.load` does not try the family's row here, since modules without a part in the design pass nothing on.
    """
    layers = range(design.n_layers)
    sites = ["embed", *(f"{kind}_{layer}" for layer in layers for kind in ("attn", "mlp", "resid"))]
    return fc.load(build(design, tokens, shape), dict.fromkeys(sites, dictionary(design)), check=False)
