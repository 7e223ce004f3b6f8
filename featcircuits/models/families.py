"""The table of model families: where the sites are inside a Hugging Face causal language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def _always(config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Family:
    """Dotted module paths: `layers` from the model, `attn` and `mlp` from a layer.

    A site is the output of its module (the first element where that is a tuple). `attn` and `mlp`
    name the module whose output is added to the residual stream: the post-norm where there is one.
    The embedding and the unembedding are found through transformers itself.
    """

    layers: str
    attn: str
    mlp: str
    sequential: Callable[[Any], bool] = _always
    """From the config: whether a layer's MLP reads its attention's output."""


GPT2 = Family(layers="transformer.h", attn="attn", mlp="mlp")
GPT_NEOX = Family(
    layers="gpt_neox.layers",
    attn="attention",
    mlp="mlp",
    sequential=lambda config: not config.use_parallel_residual,
)
LLAMA = Family(layers="model.layers", attn="self_attn", mlp="mlp")
GEMMA = Family(layers="model.layers", attn="post_attention_layernorm", mlp="post_feedforward_layernorm")

FAMILIES: Mapping[str, Family] = {
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
}
"""`config.model_type` -> family."""
