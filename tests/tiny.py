"""Tiny random models of every supported family, dictionaries and tasks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

import featcircuits as fc
from featcircuits.dictionaries import Dictionary, abstopk, gated, groupmax, jumprelu, relu, topk
from featcircuits.dictionaries.affine import Options
from featcircuits.dictionaries.normalisation import ConstantNorm, LayerNorm
from featcircuits.model.sites import Site, all_sites
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.spliced import SplicedModel

LAYERS, WIDTH, HEADS, VOCABULARY = 3, 16, 2, 40
_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GROUPED = {**_SHARED, "num_key_value_heads": 1, "head_dim": WIDTH // HEADS}
_CONFIGS: Mapping[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=64, n_inner=24,
        bos_token_id=None, eos_token_id=None,
    ),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_layers=LAYERS, num_heads=HEADS, intermediate_size=24,
        max_position_embeddings=64, attention_types=[[["global", "local"], 1], [["global"], 1]], window_size=2,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    ),
    "gpt_neox_parallel": lambda: transformers.GPTNeoXConfig(**_SHARED, use_parallel_residual=True),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXConfig(**_SHARED, use_parallel_residual=False),
    "llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED, sliding_window=32),
    "olmo2": lambda: transformers.Olmo2Config(**{**_SHARED, "num_key_value_heads": 1, "pad_token_id": 0}),
    "phi3": lambda: transformers.Phi3Config(**{**_SHARED, "num_key_value_heads": 1, "pad_token_id": 0}),
    "qwen2": lambda: transformers.Qwen2Config(**{**_SHARED, "num_key_value_heads": 1}),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED),
    "gemma2": lambda: transformers.Gemma2Config(**_GROUPED, sliding_window=32, query_pre_attn_scalar=8),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**_GROUPED, sliding_window=32, query_pre_attn_scalar=8),
}  # fmt: skip
FAMILIES = tuple(_CONFIGS)
EAGER_ONLY = frozenset({"gemma2", "gpt_neo"})
"""Families for which transformers has no sdpa attention."""
POSITIONS_ADDED = frozenset({"gpt2", "gpt_neo"})
"""Families that add a position embedding after the site `embed`."""
FLOAT32_INSIDE = frozenset(FAMILIES) - {"gpt2"}
"""Families whose rotary angles, norms or softmax transformers computes in float32 even in float64 models."""


def tolerance(family: str) -> float:
    """Relative tolerance of identities in a float64 model of the family."""
    return 5e-6 if family in FLOAT32_INSIDE else 1e-9


def tiny_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Random weights, large enough that every nonlinearity matters."""
    config = _CONFIGS[family]()
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.35)
            elif "norm" in name or "ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(0, 0.1)
    return model.to(dtype).eval()


KINDS = (
    "relu", "jumprelu", "topk", "gated", "abstopk", "groupmax", "layer_norm", "constant_norm",
    "transcoder", "skip_transcoder", "layer_norm_transcoder", "skip_sae", "stream_skip_transcoder",
)  # fmt: skip
"""Kinds of random dictionaries; transcoders stand at MLPs, among ReLU dictionaries at other sites.

Those called stream read the stream before the MLP's norm, and in parallel blocks, which have none, the MLP's input.
"""

ALL_SITES = tuple(map(str, all_sites(LAYERS, ("attn_z", "attn", "mlp", "resid"))))
"""Every site that a dictionary can stand at."""


def random_dictionary(kind: str = "relu", width: int = WIDTH, n_features: int = 24, seed: int = 0) -> Dictionary:
    """A dictionary that reconstructs badly, so that its error term matters."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = normal(width, n_features) * 0.3, normal(n_features) * 0.1, normal(n_features, width) * 0.3
    b_dec = normal(width) * 0.1
    if kind == "jumprelu":
        return jumprelu(*weights, b_dec, torch.rand(n_features, generator=generator, dtype=torch.float64) * 0.5)
    if kind == "topk":
        return topk(*weights, b_dec, k=6)
    if kind == "abstopk":
        return abstopk(*weights, b_dec, k=6)
    if kind == "groupmax":
        return groupmax(*weights, b_dec, k=6)
    if kind == "gated":
        W_enc, b_gate, W_dec = weights
        return gated(W_enc, b_gate, normal(n_features) * 0.3, normal(n_features) * 0.1, W_dec, b_dec, centre=b_dec)
    return relu(*weights, b_dec, **OPTIONS[kind](normal, width))


OPTIONS: Mapping[str, Callable[[Callable[..., Tensor], int], Options]] = {
    "relu": lambda normal, width: {},
    "layer_norm": lambda normal, width: {"normalisation": LayerNorm(), "centre": normal(width) * 0.1},
    "constant_norm": lambda normal, width: {"normalisation": ConstantNorm()},
    "transcoder": lambda normal, width: {"transcodes": True},
    "skip_transcoder": lambda normal, width: {"transcodes": True, "W_skip": normal(width, width) * 0.3},
    "stream_transcoder": lambda normal, width: {"transcodes": True, "reads": "resid_mid"},
    "stream_skip_transcoder": lambda normal, width: {
        "transcodes": True,
        "reads": "resid_mid",
        "W_skip": normal(width, width) * 0.3,
    },
    "skip_sae": lambda normal, width: {"W_skip": normal(width, width) * 0.3},
    "layer_norm_transcoder": lambda normal, width: {"transcodes": True, "normalisation": LayerNorm(undone=False)},
}


def spliced_model(
    model: PreTrainedModel, kind: str = "relu", sites: list[str] | None = None, seed: int = 0
) -> SplicedModel:
    """Random dictionaries at the given sites, or at the embedding and each layer's attn, mlp and resid."""
    names = sites if sites is not None else [str(site) for site in all_sites(LAYERS)]
    if getattr(getattr(model, "config", None), "use_parallel_residual", False):
        kind = kind.removeprefix("stream_")

    def at(name: str) -> str:
        return "relu" if "transcoder" in kind and not name.startswith("mlp") else kind

    return fc.load(model, {name: random_dictionary(at(name), seed=seed + i) for i, name in enumerate(names)})


def seen_at(spliced: SplicedModel, tokens: Tokens, site: Site) -> tuple[Tensor, Tensor]:
    """(activation, what the site's dictionary reads) of a plain forward."""
    seen = spliced.record(tokens, spliced.with_reads([site]))[1]
    return seen[site], seen[spliced.read_site(site)]


def taken_apart(dictionary: Dictionary, x: Tensor, read: Tensor, units: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(features, error) by hand; `units`: the reading whose statistics the decoder's output is in."""
    features = dictionary.encode(read)
    past = dictionary.bypass(read) if dictionary.has_bypass else torch.zeros_like(x)
    return features, x - past - dictionary.decode(features, dictionary.statistics(read if units is None else units))


def put_together(dictionary: Dictionary, features: Tensor, error: Tensor, read: Tensor) -> Tensor:
    """The activation again, written out."""
    past = dictionary.bypass(read) if dictionary.has_bypass else 0.0
    return dictionary.decode(features, dictionary.statistics(read)) + past + error


def traced(spliced: SplicedModel, task: fc.Task, **options: Any) -> fc.Circuit:
    """A circuit of random dictionaries, which a trace would otherwise refuse as not belonging to the model."""
    return fc.trace(spliced, task, check_fit=False, **options).circuit


def random_task(count: int = 3, length: int = 5, seed: int = 0, **options: Any) -> fc.Task:
    """Aligned pairs of random tokens that differ in one place, with random answers, which no model gets right."""
    options = {"keep_wrong": True, **options}
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(1, VOCABULARY, (count, length), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 1] = clean[:, 1] % (VOCABULARY - 1) + 1
    answers = torch.stack([torch.randperm(VOCABULARY, generator=generator)[:2] for _ in range(count)])
    return fc.Task.from_tokens(clean, corrupted, answers[:, 0], answers[:, 1], **options)


def assert_padding_changes_nothing(estimator: str, side: str) -> SplicedModel:
    """A short and a long prompt in one batch have the effects that each has alone; returns the model that was used."""
    spliced = spliced_model(tiny_model("gpt2", dtype=torch.float32), sites=["embed", "mlp_0", "resid_1"])
    short, long = random_task(1, 4, seed=1), random_task(1, 7, seed=2)
    both = fc.Task((*short.examples, *long.examples), aggregate="sum", padding_side=side)
    together = fc.node_effects(spliced, both, estimator)
    for number, alone in enumerate((short, long)):
        expected = fc.node_effects(spliced, alone, estimator)
        for site in spliced.sites:
            found = together.features(site)[number, : alone.longest]
            torch.testing.assert_close(found, expected.features(site)[0], rtol=1e-4, atol=1e-4)
    return spliced


def n_hooks(model: nn.Module) -> int:
    """Hooks and replaced forwards anywhere in a model."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in vars(module))
        for module in model.modules()
    )


class _Ones(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


def made_linear(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture without any nonlinearity: norms and activations are the identity, gates
    are 1, and attention looks everywhere alike."""
    gated = any(name.endswith(("gate_proj", "gate_up_proj")) for name, _ in model.named_modules())
    for name, _ in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if "norm" in child or child.startswith("ln_"):
            setattr(model.get_submodule(parent), child, nn.Identity())
        elif child in ("act", "act_fn", "activation_fn"):
            setattr(model.get_submodule(parent), child, _Ones() if gated else nn.Identity())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _zero_queries(name, parameter)
    if getattr(model.config, "final_logit_softcapping", None):
        model.config.final_logit_softcapping = None
    return model


def _zero_queries(name: str, parameter: nn.Parameter) -> None:
    """Equal attention scores: the pattern is uniform and does not move."""
    if "q_proj" in name:
        parameter.zero_()
    elif "qkv_proj" in name:  # Phi-3: rows q, then k, then v
        parameter[:WIDTH].zero_()
    elif "query_key_value" in name:  # GPT-NeoX: [heads, (q, k, v), head width]
        parameter.view(HEADS, 3, WIDTH // HEADS, *parameter.shape[1:])[:, 0].zero_()
    elif "c_attn" in name:  # GPT-2: columns q, k, v
        parameter[..., :WIDTH].zero_()
