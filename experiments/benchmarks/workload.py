"""The work that is timed: a model and a suite of a given shape with random weights, random prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import transformers
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries import Dictionary
from featcircuits.loading.load import DTYPES
from featcircuits.model.sites import all_sites
from featcircuits.splicing.spliced import SplicedModel


@dataclass(frozen=True)
class Shape:
    """Pythia-70M's, with the dictionaries that Marks et al. trained for it, on short prompts."""

    layers: int = 6
    width: int = 512
    heads: int = 8
    vocabulary: int = 50304
    features: int = 32768
    active: int = 75
    """Mean active features a token"""
    batch: int = 4
    tokens: int = 5
    dtype: str = "float32"
    family: str = "pythia"
    """"pythia" with ReLU dictionaries or "gemma" (2) with JumpReLU ones"""

    @property
    def bytes(self) -> int:
        """Of the model's and the suite's weights; dictionaries are never below float32."""
        model = 2 * self.vocabulary * self.width + self.layers * 12 * self.width**2
        suite = (3 * self.layers + 1) * (2 * self.features * self.width + self.features + self.width)
        return model * DTYPES[self.dtype].itemsize + 4 * suite


def _pythia(shape: Shape) -> transformers.PretrainedConfig:
    return transformers.GPTNeoXConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=4 * shape.width,
        max_position_embeddings=max(2048, shape.tokens), use_parallel_residual=True,
    )  # fmt: skip


def _gemma(shape: Shape) -> transformers.PretrainedConfig:
    return transformers.Gemma2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=max(1, shape.heads // 2),
        head_dim=shape.width // shape.heads, intermediate_size=4 * shape.width,
    )  # fmt: skip


CONFIGS = {"pythia": _pythia, "gemma": _gemma}


def random_model(shape: Shape, device: str = "cpu", seed: int = 0) -> SplicedModel:
    """A model of the family with a dictionary of its own at every site."""
    torch.manual_seed(seed)
    config = CONFIGS[shape.family](shape)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=DTYPES[shape.dtype]).eval().to(device)
    bare = fc.load(model, {"embed": fc.dictionaries.identity(shape.width)})
    prompts = random_task(replace(shape, batch=8, tokens=min(shape.tokens, 32)), seed + 1).batch(range(8))
    sites = all_sites(shape.layers)
    _, seen = bare.record(prompts.clean, sites)
    return fc.load(model, {str(site): _dictionary(seen[site].flatten(0, 1).float(), shape) for site in sites})


def _dictionary(x: Tensor, shape: Shape) -> Dictionary:
    """Random unit directions with a bias that leaves the wanted number active a token on `x` [n, width]."""
    W = torch.randn(shape.features, shape.width, device=x.device) / shape.width**0.5
    bias = -(x @ W.T).flatten().topk(shape.active * len(x)).values[-1]
    weights = (W.T.contiguous(), torch.full_like(W[:, 0], float(bias)), W, torch.zeros_like(W[0]))
    if shape.family == "gemma":
        weights[1].zero_()
        return fc.dictionaries.jumprelu(*weights, threshold=torch.full_like(W[:, 0], -float(bias)))
    return fc.dictionaries.relu(*weights)


def random_task(shape: Shape, seed: int = 0) -> fc.Task:
    """Pairs that share half of their tokens."""
    generator = torch.Generator().manual_seed(seed)
    clean, other = torch.randint(1, shape.vocabulary, (2, shape.batch, shape.tokens), generator=generator)
    corrupted = torch.where(torch.rand(shape.batch, shape.tokens, generator=generator) < 0.5, clean, other)
    answers = torch.randint(1, shape.vocabulary, (2, shape.batch), generator=generator)
    return fc.Task.from_tokens(clean, corrupted, answers[0], answers[1], keep_wrong=True)
