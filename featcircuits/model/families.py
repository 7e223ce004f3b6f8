"""The table of model families: where sites, norms, activations, gates and projections are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featcircuits.errors import InputError


def _always(config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Fused:
    """One projection for queries, keys and values; `values` gives its output columns that are values."""

    module: str
    values: Callable[[Any], Tensor]


@dataclass(frozen=True)
class OwnAttention:
    """Attention that a method of a module computes, without a function of transformers' registry.

    The method takes (query, key, value, mask to add) and returns the heads' output first; all
    but the mask are [row, head, slot, width].
    """

    module: str
    method: str
    visible: Callable[[Any, int], Tensor]
    """(module, slots) -> the keys that the method itself lets a query attend to [1, 1, slot, slot]."""
    scale: float
    """The factor of the products of queries and keys."""


@dataclass(frozen=True)
class Family:
    """Dotted module paths: `layers` and `final_norm` from the model, all others from a layer.

    A site is the output of its module (the first element if that is a tuple). `attn` and `mlp`
    name the module whose output is added to the residual stream: the post-norm if there is one.
    `projection` and `mlp_module` name the modules whose inputs are the sites attn_z and mlp_in.
    transformers itself finds the embedding and the unembedding.
    """

    layers: str
    attn: str
    mlp: str
    final_norm: str
    norms: tuple[str, ...]
    """Norms on the residual path, post-norms included."""
    activation: str
    """The MLP's elementwise nonlinearity."""
    queries_keys: tuple[str, ...] | Fused
    """The projections of queries and keys, which determine the attention pattern."""
    projection: str
    """The attention's output projection, which reads the heads side by side."""
    mlp_module: str = "mlp"
    """The MLP without its norms."""
    product: str | None = None
    """The module whose input is the product of the activation and the MLP's other branch; given with `branch`."""
    branch: str | None = None
    """The module whose output is, or ends with, that other branch."""
    qk_norms: tuple[str, ...] = ()
    """Norms of queries and keys."""
    sequential: Callable[[Any], bool] = _always
    """config -> whether a layer's MLP reads its attention's output."""
    attention: OwnAttention | None = None
    """The method that computes attention, in families that do not use transformers' registry."""
    tuples: bool = False
    """Whether a block returns the residual stream as the first element of a tuple."""

    def __post_init__(self) -> None:
        if (self.product is None) != (self.branch is None):
            raise InputError(
                f"a family's row has product={self.product!r} and branch={self.branch!r}; give both (the module that "
                "reads the product of activation and branch, and the one that makes the branch), or neither"
            )


def _gpt2_values(config: Any) -> Tensor:
    """The columns of values, where columns are all queries, all keys, all values."""
    return torch.arange(3 * config.hidden_size) >= 2 * config.hidden_size


def _gpt_neox_values(config: Any) -> Tensor:
    """The columns of values, where columns are query, key and value of the first head, then of the next."""
    head = config.hidden_size // config.num_attention_heads
    return torch.arange(3 * config.hidden_size) % (3 * head) >= 2 * head


def _phi3_values(config: Any) -> Tensor:
    """The columns of values, where columns are all queries, then keys, then values of the fewer key-value heads."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    return torch.arange(queries + 2 * keys) >= queries + keys


def _gpt_neo_visible(attention: Any, slots: int) -> Tensor:
    """Earlier keys; in local layers those in a window."""
    return attention.bias[:, :, :slots, :slots]


GPT2 = Family(
    layers="transformer.h",
    attn="attn",
    mlp="mlp",
    final_norm="transformer.ln_f",
    norms=("ln_1", "ln_2"),
    activation="mlp.act",
    queries_keys=Fused("attn.c_attn", _gpt2_values),
    projection="attn.c_proj",
)
GPT_NEO = replace(
    GPT2,
    queries_keys=("attn.attention.q_proj", "attn.attention.k_proj"),
    projection="attn.attention.out_proj",
    attention=OwnAttention("attn.attention", "_attn", _gpt_neo_visible, scale=1.0),
    tuples=True,
)
GPT_NEOX = Family(
    layers="gpt_neox.layers",
    attn="attention",
    mlp="mlp",
    final_norm="gpt_neox.final_layer_norm",
    norms=("input_layernorm", "post_attention_layernorm"),
    activation="mlp.act",
    queries_keys=Fused("attention.query_key_value", _gpt_neox_values),
    projection="attention.dense",
    sequential=lambda config: not config.use_parallel_residual,
)
_LLAMA: dict[str, Any] = {
    "layers": "model.layers",
    "final_norm": "model.norm",
    "activation": "mlp.act_fn",
    "product": "mlp.down_proj",
    "branch": "mlp.up_proj",
    "queries_keys": ("self_attn.q_proj", "self_attn.k_proj"),
    "projection": "self_attn.o_proj",
}
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_PRE_NORMS = {"attn": "self_attn", "mlp": "mlp", "norms": ("input_layernorm", "post_attention_layernorm")}
_PRE_AND_POST_NORMS = {
    "attn": "post_attention_layernorm",
    "mlp": "post_feedforward_layernorm",
    "norms": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
}
LLAMA = Family(**_LLAMA, **_PRE_NORMS)
QWEN3 = Family(**_LLAMA, **_PRE_NORMS, qk_norms=_QK_NORMS)
PHI3 = Family(
    **{
        **_LLAMA,
        "activation": "mlp.activation_fn",
        "branch": "mlp.gate_up_proj",
        "queries_keys": Fused("self_attn.qkv_proj", _phi3_values),
    },
    **_PRE_NORMS,
)
OLMO2 = Family(
    **_LLAMA,
    attn="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    qk_norms=_QK_NORMS,
)
GEMMA2 = Family(**_LLAMA, **_PRE_AND_POST_NORMS)
GEMMA3 = Family(**_LLAMA, **_PRE_AND_POST_NORMS, qk_norms=_QK_NORMS)
GEMMA3_WITH_IMAGES = replace(GEMMA3, layers="model.language_model.layers", final_norm="model.language_model.norm")

FAMILIES: Mapping[str, Family] = {
    "gpt2": GPT2,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "mistral": LLAMA,
    "olmo2": OLMO2,
    "phi3": PHI3,
    "qwen2": LLAMA,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3_WITH_IMAGES,
    "gemma3_text": GEMMA3,
}
"""`config.model_type` -> family."""
